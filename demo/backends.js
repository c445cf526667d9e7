// TensorFlow.js: its backends, and its files, each checked against its hash.

/** Backends in the order in which they are tried by default: the first one starts fastest. */
export const AUTOMATIC = ["wasm", "webgl", "cpu"];

export const BACKEND_NAMES = { webgl: "WebGL", webgpu: "WebGPU", wasm: "WebAssembly", cpu: "JavaScript" };

/** Whether this browser supports a backend, possibly emulated in software. */
export async function runsHere(backend) {
  const checks = {
    webgl: () => webglRenderer(),
    webgpu: () => navigator.gpu?.requestAdapter(),
    wasm: () => typeof WebAssembly !== "undefined",
    cpu: () => true,
  };
  return Boolean(await checks[backend]?.());
}

/**
 * Load TensorFlow.js and start a backend.
 *
 * @param {object} libraries by name: {url, integrity}; `config.json` has them.
 * @param {string[]} candidates names of backends; the first one that runs is used.
 * @returns {Promise<{backend: string, detail: string, missing: string}>} the backend, its description, and a sentence
 *     if it is not the first candidate.
 */
export async function startBackend(libraries, candidates) {
  await loadLibraries(libraries, ["tf-core", "tf-converter"]);
  const failures = [];
  for (const backend of new Set(candidates)) {
    const name = BACKEND_NAMES[backend] ?? backend;
    try {
      if (await runsHere(backend)) {
        await loadLibraries(libraries, [`tf-backend-${backend}`]);
        if (backend === "wasm") {
          await setWasmPath(libraries);
        }
        // `setBackend` does not throw: it returns false, or falls back to another backend.
        if ((await tf.setBackend(backend)) && tf.getBackend() === backend) {
          await tf.ready();
          return { backend, detail: describe[backend]?.() ?? "", missing: failures[0] ?? "" };
        }
      }
      failures.push(`${name} does not run here.`);
    } catch (error) {
      failures.push(`${name} cannot be used: ${error.message}.`);
    }
  }
  throw new Error(failures.join(" "));
}

async function setWasmPath(libraries) {
  const simd = await tf.env().getAsync("WASM_HAS_SIMD_SUPPORT");
  const threads = simd && (await tf.env().getAsync("WASM_HAS_MULTITHREAD_SUPPORT"));
  const needed = `tfjs-backend-wasm${threads ? "-threaded-simd" : simd ? "-simd" : ""}.wasm`;
  const url = URL.createObjectURL(await fetchLibrary(libraries[needed]));
  const names = ["", "-simd", "-threaded-simd"].map((kind) => `tfjs-backend-wasm${kind}.wasm`);
  tf.wasm.setWasmPaths(Object.fromEntries(names.map((name) => [name, url])));
}

// What is said about a backend that runs.
const describe = {
  webgl: webglRenderer,
  wasm: () => {
    const simd = tf.env().getBool("WASM_HAS_SIMD_SUPPORT");
    const count = simd && tf.env().getBool("WASM_HAS_MULTITHREAD_SUPPORT") ? tf.wasm.getThreadsCount() : 1;
    return [simd && "SIMD", count > 1 && `${count} threads`].filter(Boolean).join(", ");
  },
  cpu: () => "slow",
};

const loaded = new Set();

async function loadLibraries(libraries, names) {
  for (const name of names.filter((candidate) => !loaded.has(candidate))) {
    const url = URL.createObjectURL(await fetchLibrary(libraries[name]));
    await import(url); // Adds itself to the global `tf`.
    URL.revokeObjectURL(url);
    loaded.add(name);
  }
}

// Unlike `import` and TensorFlow.js, `fetch` checks the hash: a changed file is rejected.
async function fetchLibrary({ url, integrity }) {
  try {
    return await (await fetch(url, { integrity })).blob();
  } catch {
    throw new Error(`${url} ${await reasonOfFailure(url)}`);
  }
}

// Browsers do not report why they reject a file.
async function reasonOfFailure(url) {
  const response = await fetch(url, { method: "HEAD" }).catch(() => null);
  if (!response) {
    return "cannot be fetched (offline?)";
  }
  return response.ok ? "is not the expected file" : `is missing (${response.status})`;
}

function webglRenderer() {
  const context = new OffscreenCanvas(1, 1).getContext("webgl2");
  const names = context?.getExtension("WEBGL_debug_renderer_info");
  return context && String(context.getParameter(names ? names.UNMASKED_RENDERER_WEBGL : context.RENDERER));
}
