// Generates the images of one package in a separate process, so that its peak memory is that of the package: node make-images.ts PACKAGE
// DIRECTORY
import fs from 'node:fs/promises'
import path from 'node:path'
import { render, withPipeline } from '../local/models/render.ts'
import type { QualityPrompt } from './prompts.ts'
import { PROMPTS, type Run, readRun } from './runs.ts'

const [directory, place] = process.argv.slice(2) as [string, string]
const prompts: QualityPrompt[] = JSON.parse(await fs.readFile(path.join(place, PROMPTS), 'utf8'))

await withPipeline(directory, async (pipeline) => {
  for (const [i, { prompt, seed }] of prompts.entries()) {
    if (!(await readRun(place, i))) {
      const start = performance.now()
      const file = await render(pipeline, { prompt, seed })
      const seconds = (performance.now() - start) / 1000
      const run: Run = { seconds, peakBytes: process.resourceUsage().maxRSS * 1024 }
      await fs.writeFile(path.join(place, `${i}.png`), file)
      await fs.writeFile(path.join(place, `${i}.json`), JSON.stringify(run))
    }
    process.send?.(i)
  }
})
