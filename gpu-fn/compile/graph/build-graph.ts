// One graph of a network.
import type { NetworkName } from '../../manifest.ts'
import { CheckpointError } from '../checkpoint/error.ts'
import { Graph, GraphError } from './graph.ts'
import type { Ledger } from './ledger.ts'
import { type Build, Scope } from './scope.ts'

/** Settings that all graphs of a package share. */
export type GraphSettings = Omit<Build, 'graph' | 'ledger'>

/** Builds the graph `name` from the tensors of `ledger`. Throws CheckpointError if their shapes do not fit together. */
export function buildGraph(
  name: NetworkName,
  ledger: Ledger,
  settings: GraphSettings,
  define: (s: Scope) => Graph,
): Graph {
  try {
    return define(new Scope({ ...settings, graph: new Graph(name), ledger }))
  } catch (error) {
    if (error instanceof GraphError) throw new CheckpointError(ledger.network, error.message, { cause: error })
    throw error
  }
}
