import { type Command, Option } from 'commander'

/** Adds the address of a worker and its operator token to a command. */
export const addWorkerOptions = (command: Command): Command =>
  command
    .addOption(new Option('--url <address>', 'address of the worker').env('OCTET_URL').default('http://127.0.0.1:8787'))
    .addOption(
      new Option('--token <token>', 'operator token of the worker').env('OCTET_ADMIN_TOKEN').makeOptionMandatory(),
    )
