import { Command } from 'commander'
import { afterEach, expect, test, vi } from 'vitest'
import { findTakenOptions, prepareCommand } from '../../../infra/command/npm.ts'

const createCommand = () => new Command('deploy').option('--dry-run').option('--gpu-url <url>').option('--json')

afterEach(() => vi.restoreAllMocks())

test('options consumed by npm are detected from the environment that npm sets', () => {
  const env = { npm_config_dry_run: 'true', npm_config_gpu_url: 'true', npm_config_registry: 'https://registry.test' }
  expect(findTakenOptions(createCommand(), env)).toEqual(['--dry-run', '--gpu-url'])
  expect(findTakenOptions(createCommand(), {})).toEqual([])
  const destroy = createCommand().addCommand(new Command('destroy').option('--data').option('--yes <name>'))
  expect(findTakenOptions(destroy, { npm_config_data: 'true', npm_config_yes: 'true' })).toEqual(['--data'])
})

test('a command with options consumed by npm exits with the correct syntax', () => {
  vi.spyOn(process, 'exit').mockImplementation((code) => {
    throw new Error(`exit ${code}`)
  })
  const log = vi.spyOn(console, 'error').mockReturnValue()
  const env = { npm_lifecycle_event: 'deploy', npm_config_dry_run: 'true' }
  expect(() => prepareCommand(createCommand(), env)).toThrow('exit 2')
  expect(log).toHaveBeenCalledWith(
    'deploy: npm took --dry-run. Put "--" before the arguments: npm run deploy -- --dry-run …',
  )
  expect(prepareCommand(createCommand(), { ...env, npm_lifecycle_event: 'test' }).name()).toBe('deploy')
})
