// The page in Chromium, with the worker and the GPU function behind it. The imported files register their tests here, so that all of them
// share one world.
import './runs.ts'
import './loras.ts'
import './account.ts'
import './appearance.ts'
import './cold-start.ts'
import './readme.ts'
import { startWorld } from './world.ts'

startWorld()
