import { type DescField, type DescMessage, ScalarType } from '@bufbuild/protobuf'
import { comments } from './gen/comments.ts'
import type { Operation } from './operation.ts'

type Json = Record<string, unknown>

/** The OpenAPI 3.1 document of the REST face, made of the operations and their messages. */
export function openApi(operations: readonly Operation[], version: string): Json {
  const schemas: Json = { Error: errorSchema }
  const paths: Record<string, Json> = {}
  for (const operation of operations) {
    const path = operation.rest.path.replace(/:(\w+)\+?/g, '{$1}')
    paths[path] = { ...paths[path], [operation.rest.method.toLowerCase()]: describe(operation, schemas) }
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'MCR administration',
      version,
      description: 'What an administrator can do. Repository names hold slashes, which stand in the path as they are.',
    },
    security: [{ token: [] }, { password: [] }],
    paths,
    components: {
      schemas,
      securitySchemes: { token: { type: 'http', scheme: 'bearer' }, password: { type: 'http', scheme: 'basic' } },
    },
  }
}

const errorSchema = {
  type: 'object',
  required: ['error', 'code'],
  properties: { error: { type: 'string' }, code: { type: 'string' } },
}

function describe(operation: Operation, schemas: Json): Json {
  const { method, rest, summary, action } = operation
  const inPath = new Set([...rest.path.matchAll(/:(\w+)\+?/g)].map((match) => match[1]))
  const byQuery = rest.method === 'GET' || rest.method === 'DELETE'
  const left = method.input.fields.filter((field) => !inPath.has(field.name))
  const parameter = (field: DescField, where: 'path' | 'query') => ({
    name: field.name,
    in: where,
    required: where === 'path',
    description: commentOf(field),
    schema: schemaOf(field, schemas),
  })
  const content = operation.stream ? 'application/jsonl' : 'application/json'
  // A line of a stream is what the message carries, without the message around it.
  const line = operation.stream ? method.output.fields[0]?.message : undefined
  const status = String(rest.status ?? 200)
  const refusals = ['400', '401', '403', '404', '408', '409', '410', '412', '413', '415', '421', '429', '503', '507']
  return {
    operationId: method.name,
    tags: [method.parent.name],
    summary,
    ...(action === 'public' ? { security: [] } : {}),
    'x-action': typeof action === 'function' ? 'by request' : action,
    parameters: [
      ...method.input.fields.filter((field) => inPath.has(field.name)).map((field) => parameter(field, 'path')),
      ...(byQuery ? left.map((field) => parameter(field, 'query')) : []),
    ],
    ...(byQuery || left.length === 0
      ? {}
      : {
          requestBody: {
            required: false,
            content: { 'application/json': { schema: messageSchema(method.input, left, schemas) } },
          },
        }),
    responses: {
      [status]:
        status === '204'
          ? { description: 'done' }
          : { description: 'done', content: { [content]: { schema: refTo(line ?? method.output, schemas) } } },
      ...Object.fromEntries(
        refusals.map((code) => [
          code,
          { description: 'refused', content: { 'application/json': { schema: { $ref: '#/components/schemas/Error' } } } },
        ]),
      ),
    },
  }
}

const commentOf = (field: DescField) => comments[`${field.parent.name}.${field.name}`] ?? ''

function refTo(desc: DescMessage, schemas: Json): Json {
  if (!Object.hasOwn(schemas, desc.name)) {
    schemas[desc.name] = {}
    schemas[desc.name] = messageSchema(desc, desc.fields, schemas)
  }
  return { $ref: `#/components/schemas/${desc.name}` }
}

function messageSchema(desc: DescMessage, fields: readonly DescField[], schemas: Json): Json {
  const properties = Object.fromEntries(
    fields.map((field) => {
      const schema = schemaOf(field, schemas)
      const description = commentOf(field)
      return [field.name, description === '' || '$ref' in schema ? schema : { ...schema, description }]
    }),
  )
  return { title: desc.name, type: 'object', properties, additionalProperties: false }
}

function schemaOf(field: DescField, schemas: Json): Json {
  if (field.fieldKind === 'list')
    return {
      type: 'array',
      items: field.listKind === 'message' ? typeOf(field.message, schemas) : scalar((field as { scalar?: ScalarType }).scalar),
    }
  if (field.fieldKind === 'message') return typeOf(field.message, schemas)
  return scalar((field as { scalar?: ScalarType }).scalar)
}

function typeOf(message: DescMessage, schemas: Json): Json {
  return message.typeName === 'google.protobuf.Timestamp' ? { type: 'string', format: 'date-time' } : refTo(message, schemas)
}

function scalar(type: ScalarType | undefined): Json {
  if (type === ScalarType.BOOL) return { type: 'boolean' }
  if (type === ScalarType.INT32) return { type: 'integer', format: 'int32' }
  if (type === ScalarType.INT64) return { type: 'integer', format: 'int64' }
  return { type: 'string' }
}
