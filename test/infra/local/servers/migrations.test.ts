import { existsSync, readdirSync, statSync } from 'node:fs'
import path from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { migrate } from '../../../../infra/local/servers/migrations.ts'
import { useScratch } from '../../../support/scratch.ts'

const scratch = useScratch()

/** Names and sizes of all files below a directory. */
const filesOf = (directory: string) =>
  readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => [name, statSync(path.join(parentPath, name)).size])
    .sort()

test('a killed process leaves no incomplete database', async () => {
  const database = path.join(scratch.directory, 'v3')
  const migrated = migrate(scratch.directory)
  while (!existsSync(database)) await nextTurn()
  const first = filesOf(database)
  await migrated
  expect(first).toEqual(filesOf(database))
  expect(readdirSync(scratch.directory).sort()).toEqual(['migrated', 'v3'])
})
