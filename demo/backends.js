// TensorFlow.js: which of its backends suits this machine, and its files, each checked against its hash.

/** Backends in the order in which they are tried when none is asked for. */
const AUTOMATIC = ["webgl", "wasm", "cpu"];

const SOFTWARE_RENDERER = /swiftshader|llvmpipe|softpipe|software|basic render/i;

export const BACKEND_NAMES = { webgl: "WebGL", webgpu: "WebGPU", wasm: "WebAssembly", cpu: "JavaScript" };

/**
 * Load TensorFlow.js and start a backend.
 *
 * @param {object} libraries by name: {url, integrity}; `config.json` has them.
 * @param {string} requested a backend's name, or "auto" for the best one.
 * @returns {Promise<{backend: string, detail: string, missing: string}>} what runs, what is worth saying of it, and a
 *     sentence if the one asked for cannot run here.
 */
export async function startBackend(libraries, requested) {
  await loadLibraries(libraries, ["tf-core", "tf-converter"]);
  const candidates = requested === "auto" ? AUTOMATIC : [requested, ...AUTOMATIC];
  const failures = [];
  for (const backend of new Set(candidates)) {
    try {
      const detail = await start[backend](libraries, requested === backend);
      // `setBackend` answers false, or falls back to another, rather than fail.
      if ((await tf.setBackend(backend)) && tf.getBackend() === backend) {
        await tf.ready();
        const missing = failures.includes(requested) ? `${BACKEND_NAMES[requested]} does not run here.` : "";
        return { backend, detail: detail(), missing };
      }
    } catch (error) {
      console.info(`${BACKEND_NAMES[backend]} is not used: ${error.message}`);
    }
    failures.push(backend);
  }
  throw new Error("TensorFlow.js could start none of its backends in this browser.");
}

// For each backend: load it, or throw why it is not used; returns a function that describes it once it runs.
const start = {
  async webgl(libraries, forced) {
    const renderer = webglRenderer();
    if (!renderer) {
      throw new Error("there is no WebGL");
    }
    if (!forced && SOFTWARE_RENDERER.test(renderer)) {
      throw new Error(`it is emulated in software (${renderer})`);
    }
    await loadLibraries(libraries, ["tf-backend-webgl"]);
    return () => renderer;
  },

  async webgpu(libraries) {
    if (!(await navigator.gpu?.requestAdapter())) {
      throw new Error("there is no adapter");
    }
    await loadLibraries(libraries, ["tf-backend-webgpu"]);
    return () => "";
  },

  async wasm(libraries) {
    if (typeof WebAssembly === "undefined") {
      throw new Error("this browser has none");
    }
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
  const response = await fetch(url, { integrity }).catch((error) => {
    throw new Error(`${url} cannot be fetched, or is not the file it should be (${error.message})`);
  });
  if (!response.ok) {
    throw new Error(`${url} is missing (${response.status})`);
  }
  return response.blob();
}

function webglRenderer() {
  const context = new OffscreenCanvas(1, 1).getContext("webgl2");
  const names = context?.getExtension("WEBGL_debug_renderer_info");
  return context && String(context.getParameter(names ? names.UNMASKED_RENDERER_WEBGL : context.RENDERER));
}
