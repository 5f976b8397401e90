// Runs after `npm ci`: removes onnxruntime's libraries for other systems, 240 MB of 280.
'use strict'

const { readdirSync, rmSync } = require('node:fs')
const path = require('node:path')

const libraries = path.join(__dirname, '../../node_modules/onnxruntime-node/bin/napi-v6')

for (const platform of readdirSync(libraries))
  for (const arch of readdirSync(path.join(libraries, platform)))
    if (platform !== process.platform || arch !== process.arch)
      rmSync(path.join(libraries, platform, arch), { recursive: true })
