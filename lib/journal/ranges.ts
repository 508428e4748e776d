/** Numbers in ascending order as text: `1..4,7,9..12`. */
export function writeRanges(numbers: readonly number[]): string {
  const ranges: [first: number, last: number][] = []
  for (const number of numbers) {
    const range = ranges.at(-1)
    if (range && number === range[1] + 1) range[1] = number
    else ranges.push([number, number])
  }
  return ranges.map(([first, last]) => (first === last ? `${first}` : `${first}..${last}`)).join()
}

/** The numbers of such texts: whether one is among them. */
export function readRanges(texts: readonly string[]): (number: number) => boolean {
  const ranges = texts
    .flatMap((text) => text.split(','))
    .map((range) => range.split('..').map(Number))
    .map(([first = 0, last = first]) => ({ first, last }))
    .sort((a, b) => a.first - b.first)
  // The furthest that any range up to this one reaches: ranges may overlap.
  let reach = 0
  const reaches = ranges.map(({ last }) => {
    reach = Math.max(reach, last)
    return reach
  })
  return (number) => {
    let low = 0
    let high = ranges.length
    while (low < high) {
      const middle = (low + high) >> 1
      if ((ranges[middle] as { first: number }).first <= number) low = middle + 1
      else high = middle
    }
    return low > 0 && (reaches[low - 1] as number) >= number
  }
}
