import { execFile } from 'node:child_process'
import path from 'node:path'
import { promisify } from 'node:util'
import { beforeAll, describe, expect, test } from 'vitest'
import { type DeployConfig, readDeployConfig } from '../../../infra/config.ts'
import { findModalPython } from '../../../infra/modal/python.ts'

const python = findModalPython()
if (!python)
  console.warn('Python has no Modal package, so infra/modal_app.py is not checked; npm run modal:setup installs it.')

type Call = [name: string, request: Record<string, never>]
let calls: Call[]
let gpu: DeployConfig['gpu']

/** Runs the real modal command against a server that speaks its protocol. */
async function runModal(...command: string[]) {
  const program = path.join(import.meta.dirname, 'deploy.py')
  const { stdout } = await promisify(execFile)(python!, [program, ...command], { maxBuffer: 1e8 })
  return JSON.parse(stdout) as { code: number; output: string; calls: Call[] }
}

const listRequests = (name: string) => calls.filter(([called]) => called === name).map(([, request]) => request)

describe.skipIf(!python)('modal deploy infra/modal_app.py, by the real package', () => {
  beforeAll(async () => {
    gpu = (await readDeployConfig()).gpu
    const { code, output, calls: made } = await runModal('deploy', 'infra/modal_app.py')
    expect(output).toContain('Created Server Gpu.')
    expect(code).toBe(0)
    calls = made
  })

  test('a server on any of the GPUs, in the order of infra/config.json', () => {
    const [{ function_data }] = listRequests('FunctionCreate') as never as [{ function_data: never }]
    const ranked = (function_data as { ranked_functions: { function: Server }[] }).ranked_functions
    expect(ranked.map((each) => each.function.resources.gpu_config.gpu_type)).toEqual(gpu.gpus)
    for (const { function: server } of ranked) expect(server).toMatchObject(createExpected(gpu))
  })

  test('requests without a proxy token are rejected', () => {
    expect(JSON.stringify(listRequests('FunctionCreate'))).not.toContain('unauthenticated')
  })

  test('the volume is created if missing, the secret is required, and the container has the paths of both', () => {
    expect(listRequests('VolumeGetOrCreate')).toMatchObject([
      { deployment_name: gpu.volume, object_creation_type: 'OBJECT_CREATION_TYPE_CREATE_IF_MISSING' },
    ])
    const [secret, environment] = listRequests('SecretGetOrCreate').toSorted((a) => ('env_dict' in a ? 1 : -1))
    expect(secret).toEqual({ deployment_name: gpu.secret })
    expect(environment).toMatchObject({
      env_dict: { PORT: '8080', OCTET_PACKAGES: '/packages', OCTET_PRELOAD: gpu.models.join() },
    })
  })

  test('the image is Dockerfile.gpu, built as root for the Python that Modal adds', () => {
    const [ours, withPython] = listRequests('ImageGetOrCreate') as never as {
      image: { dockerfile_commands: string[] }
    }[]
    expect(ours!.image.dockerfile_commands.join('\n')).toContain('gpu-fn')
    expect(ours!.image).toMatchObject({ build_args: { RUN_AS: 'root' } })
    expect(withPython!.image.dockerfile_commands.join('\n')).toContain('python')
  })

  test('the app is deployed under its name', () => {
    expect(listRequests('AppPublish')).toMatchObject([{ name: gpu.app, function_ids: { [gpu.server]: 'fu-1' } }])
  })
})

type Server = { resources: { gpu_config: { gpu_type: string } } }

const createExpected = (gpu: DeployConfig['gpu']) => ({
  is_server: true,
  function_name: gpu.server,
  resources: { memory_mb: gpu.memory_mib, milli_cpu: gpu.cpu * 1000 },
  max_concurrent_inputs: gpu.max_concurrency,
  autoscaler_settings: {
    min_containers: gpu.min_containers,
    max_containers: gpu.max_containers,
    buffer_containers: gpu.buffer_containers,
    scaledown_window: gpu.scaledown_window_seconds,
    target_concurrency_float: gpu.target_concurrency,
  },
  startup_timeout_secs: gpu.startup_timeout_seconds,
  http_config: {
    port: 8080,
    proxy_regions: [gpu.routing_region],
    startup_timeout: gpu.startup_timeout_seconds,
    exit_grace_period: gpu.exit_grace_seconds,
  },
  volume_mounts: [{ volume_id: 'vo-1', mount_path: '/packages' }],
  scheduler_placement: { regions: [gpu.compute_region] },
})
