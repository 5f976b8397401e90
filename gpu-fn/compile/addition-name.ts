// The IDs of LoRAs and ControlNets.
import path from 'node:path'
import { additionIdOf, modelName } from '../contract.ts'
import { CheckpointError, quote } from './checkpoint/error.ts'

/** ID of an adapter or a ControlNet in requests: `name`, or an ID derived from the file or directory name. Throws CheckpointError. */
export function chooseAdditionName(file: string, name: string | undefined): string {
  const given = name ?? additionIdOf(path.resolve(file))
  if (modelName.safeParse(given).success) return given
  throw new CheckpointError(
    name === undefined ? file : '--name',
    `${quote(given)} cannot be the name; 1 to 64 of a-z, 0-9 and "-" are allowed, not "-" at the start. Give one with --name`,
  )
}
