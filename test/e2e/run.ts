// Real clients against the built registry, over HTTPS and with login.
import { findTool } from '../support/process.ts'

const names = [
  'docker',
  'dockerd',
  'containerd',
  'ctr',
  'skopeo',
  'podman',
  'buildah',
  'umoci',
  'crane',
  'oras',
  'regctl',
  'helm',
]
const missing = names.filter((name) => !findTool(name))
if (missing.length > 0) {
  console.log(`not installed: ${missing.join(', ')}; .ci/install-clients installs them`)
  process.exit(process.env.CI ? 1 : 0)
}
