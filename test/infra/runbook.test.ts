// The commands and configurations of docs/deploy.md and docs/runbook.md, as far as they can be tried without accounts.
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { parseEnv, promisify } from 'node:util'
import { describe, expect, test } from 'vitest'
import { CONFIG_FILE, readDeployConfig } from '../../infra/config.ts'
import { workerConfigOf } from '../../infra/deploy/worker-config.ts'
import packageJson from '../../package.json' with { type: 'json' }
import { useScratch } from '../support/scratch.ts'

const ROOT = path.join(import.meta.dirname, '../..')
const scratch = useScratch()
const text = ['docs/deploy.md', 'docs/runbook.md', 'README.md']
  .map((page) => readFileSync(path.join(ROOT, page), 'utf8'))
  .join('\n')

/** Code blocks, with continued lines joined, and spans in backticks. */
const blocks = [...text.matchAll(/^```(\w*)\n([\s\S]*?)^```$/gm)].map(([, language, code]) => ({
  language,
  code: code!,
}))
const code = [
  ...blocks.flatMap(({ code }) => code.replaceAll(/\\\n\s*/g, ' ').split('\n')),
  ...[...text.replaceAll(/^```[\s\S]*?^```$/gm, '').matchAll(/`([^`]+)`/g)].map(([, span]) =>
    span!.replaceAll('\n', ' '),
  ),
].map((line) => line.replace(/ #.*$/, ''))

type DocumentedCommand = { program: string; words: string[] }

/** The documented commands that start with `start`, each as its program and words. */
function commandsOf(start: RegExp): DocumentedCommand[] {
  const found = code
    .flatMap((line) => line.split(' && '))
    .flatMap((line) => {
      const [all, name] = start.exec(line) ?? []
      return all === undefined
        ? []
        : [
            {
              program: name ?? '',
              words: line
                .slice(line.indexOf(all) + all.length)
                .trim()
                .split(/\s+/),
            },
          ]
    })
  return [...new Map(found.map((each) => [JSON.stringify(each), each])).values()]
}

async function helpOf(script: string, subcommand: string[]): Promise<string> {
  const file = /node (\S+\.ts)/.exec(packageJson.scripts[script as 'demo'])![1]!
  const { stdout } = await promisify(execFile)(process.execPath, [file, ...subcommand, '--help'], { cwd: ROOT })
  return stdout
}

const OWN = commandsOf(/npm run (?:-s )?([\w:-]+) --(?= )/).filter(({ program }) => program in packageJson.scripts)
const optionsOf = ({ words }: DocumentedCommand) =>
  words.filter((word) => /^--[a-z]/.test(word)).map((word) => word.split('=')[0]!)

describe.each([...Map.groupBy(OWN, ({ program }) => program)])('npm run %s', (program, documented) => {
  test('has every documented subcommand and option', async () => {
    const help = await helpOf(program, [])
    const names = [...help.matchAll(/^ {2}(\w+)(?: [[<].*?|) {2,}/gm)].map(([, name]) => name!)
    for (const each of documented) {
      const subcommand = each.words.filter((word) => names.includes(word)).slice(0, 1)
      const shown = subcommand.length > 0 ? help + (await helpOf(program, subcommand)) : help
      for (const option of optionsOf(each)) expect(shown, `${program} ${each.words.join(' ')}`).toContain(option)
    }
  })
})

const WRANGLER = commandsOf(/(?:npx|npm exec --) wrangler/).filter(({ words }) => words[0] !== '')

test.each(WRANGLER.map(({ words }) => words.join(' ')))('wrangler accepts: %s', async (line) => {
  const env = { PATH: process.env.PATH, HOME: scratch.directory, CI: '1', WRANGLER_SEND_METRICS: 'false' }
  const words = [...line.matchAll(/'([^']*)'|(\S+)/g)].map(([, quoted, bare]) => quoted ?? bare!)
  const ended = promisify(execFile)(process.execPath, ['node_modules/wrangler/bin/wrangler.js', ...words, '--help'], {
    cwd: ROOT,
    env,
  })
  const { stdout } = await ended
  for (const option of words.filter((word) => word.startsWith('--'))) expect(stdout).toContain(option)
  expect(stdout).toContain(`wrangler ${words[0]}`)
})

test('the documents name commands of each kind', () => {
  expect([OWN.length > 15, WRANGLER.length > 8]).toEqual([true, true])
})

test.each(blocks.filter(({ language }) => language === 'json').map(({ code }) => code))(
  'a deployment accepts the configuration %s',
  async (snippet) => {
    const config = JSON.parse(readFileSync(CONFIG_FILE, 'utf8'))
    const file = path.join(scratch.directory, 'config.json')
    await writeFile(file, JSON.stringify({ ...config, worker: { ...config.worker, ...JSON.parse(snippet) } }))
    await workerConfigOf(await readDeployConfig(file), 'https://gpu.test')
  },
)

test('the commands of a shell block set variables that a shell understands', () => {
  const exports = blocks.flatMap(({ code }) => code.split('\n')).filter((line) => line.startsWith('export '))
  for (const line of exports) expect(Object.keys(parseEnv(line.replace(/^export /, ''))).length).toBe(1)
})
