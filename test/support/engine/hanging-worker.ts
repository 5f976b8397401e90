// The real engine thread, which hangs on request.
import './hanging-engine.ts'
import '../../../gpu-fn/engine/worker.ts'
