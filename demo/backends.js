// TensorFlow.js: which of its backends suits this machine, and its files, each checked against its hash.

/** Backends in the order in which they are tried when none is asked for: the first map comes soonest from the first. */
export const AUTOMATIC = ["wasm", "webgl", "cpu"];

export const BACKEND_NAMES = { webgl: "WebGL", webgpu: "WebGPU", wasm: "WebAssembly", cpu: "JavaScript" };

/** Whether this browser has what a backend needs, emulated in software or not. */
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
 * @param {string[]} candidates backends' names; the first that runs is taken.
 * @returns {Promise<{backend: string, detail: string, missing: string}>} what runs, what is worth saying of it, and a
 *     sentence if it is not the first candidate.
 */
export async function startBackend(libraries, candidates) {
  await loadLibraries(libraries, ["tf-core", "tf-converter"]);
  const failures = [];
  for (const backend of new Set(candidates)) {
    const name = BACKEND_NAMES[backend] ?? backend;
    try {
      if (await runsHere(backend)) {
        const detail = await start[backend](libraries);
        // `setBackend` answers false, or falls back to another, rather than fail.
        if ((await tf.setBackend(backend)) && tf.getBackend() === backend) {
          await tf.ready();
          return { backend, detail: detail(), missing: failures[0] ?? "" };
        }
      }
      failures.push(`${name} does not run here.`);
    } catch (error) {
      failures.push(`${name} cannot be used: ${error.message}.`);
    }
  }
  throw new Error(failures.join(" "));
}

// For each backend: load its files; returns a function that describes it once it runs.
const start = {
  async webgl(libraries) {
    await loadLibraries(libraries, ["tf-backend-webgl"]);
    return webglRenderer;
  },

  async webgpu(libraries) {
    await loadLibraries(libraries, ["tf-backend-webgpu"]);
    return () => "";
  },

  async wasm(libraries) {
    await loadLibraries(libraries, ["tf-backend-wasm"]);
    const simd = await tf.env().getAsync("WASM_HAS_SIMD_SUPPORT");
    const threads = simd && (await tf.env().getAsync("WASM_HAS_MULTITHREAD_SUPPORT"));
    const needed = `tfjs-backend-wasm${threads ? "-threaded-simd" : simd ? "-simd" : ""}.wasm`;
    const url = URL.createObjectURL(await fetchLibrary(libraries[needed]));
    const names = ["", "-simd", "-threaded-simd"].map((kind) => `tfjs-backend-wasm${kind}.wasm`);
    tf.wasm.setWasmPaths(Object.fromEntries(names.map((name) => [name, url])));
    return () => {
      const count = threads ? tf.wasm.getThreadsCount() : 1;
      return [simd && "SIMD", count > 1 && `${count} threads`].filter(Boolean).join(", ");
    };
  },

  async cpu(libraries) {
    await loadLibraries(libraries, ["tf-backend-cpu"]);
    return () => "slow";
  },
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

// `import` and TensorFlow.js check no hash, `fetch` does: a file that was changed on its way is refused.
async function fetchLibrary({ url, integrity }) {
  try {
    return await (await fetch(url, { integrity })).blob();
  } catch {
    throw new Error(`${url} ${await reasonAgainst(url)}`);
  }
}

// Browsers do not say why they refuse a file.
async function reasonAgainst(url) {
  const response = await fetch(url, { method: "HEAD" }).catch(() => null);
  if (!response) {
    return "cannot be fetched (offline?)";
  }
  return response.ok ? "is not the file it should be" : `is missing (${response.status})`;
}

function webglRenderer() {
  const context = new OffscreenCanvas(1, 1).getContext("webgl2");
  const names = context?.getExtension("WEBGL_debug_renderer_info");
  return context && String(context.getParameter(names ? names.UNMASKED_RENDERER_WEBGL : context.RENDERER));
}
