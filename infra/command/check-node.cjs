// Runs before `npm ci`, with any Node: the Node of the system must run TypeScript where none is installed with the packages.
'use strict'

const bundled = process.platform === 'linux' && ['x64', 'arm64'].includes(process.arch)
const [major, minor] = process.versions.node.split('.').map(Number)
if (!bundled && (major < 24 || (major === 24 && minor < 2))) {
  console.error(
    `On ${process.platform} ${process.arch}, install Node 24.2 or later (https://nodejs.org) and run npm again; this is Node ${process.versions.node}.`,
  )
  process.exit(1)
}
