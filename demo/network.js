// A network in its own worker, and the search for the fastest backend on this machine.

import { runsHere } from "./backends.js";

// The backends to measure; plain JavaScript is never the fastest.
const MEASURED = ["wasm", "webgl", "webgpu"];

// How long another backend may take to load, compile and be measured. One that is emulated in software needs minutes.
const MEASURING_LIMIT_MS = 15_000;

export class Network {
  #worker = new Worker("worker.js", { type: "module" });
  #waiting = new Map();
  #requests = 0;
  #retired = false;

  /** Start a worker; `onProgress` is called with the loaded fraction of the network, 0 to 1. */
  constructor(onProgress = () => {}) {
    this.#worker.onmessage = ({ data }) => {
      if (data.progress !== undefined) {
        onProgress(data.progress);
        return;
      }
      const { resolve, reject } = this.#waiting.get(data.id);
      this.#waiting.delete(data.id);
      if (data.error) {
        reject(Object.assign(new Error(data.error), { kind: data.kind }));
      } else {
        resolve(data);
      }
      if (this.#retired) {
        this.retire();
      }
    };
    this.#worker.onerror = (event) => this.end(Object.assign(new Error(event.message), { kind: "worker" }));
  }

  /** Send a message of `worker.js`; resolves to its answer. */
  ask(type, content = {}, transfer = []) {
    const id = this.#requests++;
    const answer = new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
    this.#worker.postMessage({ id, type, ...content }, transfer);
    return answer;
  }

  /** Load a row of `config.networks` on the first backend that runs. */
  async load(config, row, backends) {
    const { backend, detail, missing } = await this.ask("load", { config, network: row, backends });
    Object.assign(this, { row, backend, detail });
    return missing;
  }

  /** End the worker after its last answer. */
  retire() {
    this.#retired = true;
    if (!this.#waiting.size) {
      this.end();
    }
  }

  /** End the worker now; pending requests fail with the error. */
  end(error = new Error("The network was replaced.")) {
    this.#worker.terminate();
    this.#waiting.forEach(({ reject }) => reject(error));
    this.#waiting.clear();
  }
}

/**
 * Measure the backends that a network does not run on, each in its own worker, while the network keeps working.
 *
 * @param {Network} current the loaded network.
 * @param {object} config of the page.
 * @param {number[]} size of the input to measure with.
 * @param {AbortSignal} signal to give up.
 * @returns {Promise<{fastest: Network, times: object}>} the fastest, which may be `current`, and the milliseconds by
 *     backend; Infinity for one that failed or exceeded the limit.
 */
export async function findFastest(current, config, size, signal) {
  const candidates = [];
  const end = (kept) => candidates.filter((network) => network !== kept).forEach((network) => network.end());
  signal.addEventListener("abort", end, { once: true });
  const times = {};
  for (const backend of MEASURED.filter((name) => name !== current.backend)) {
    if (!signal.aborted && (await runsHere(backend))) {
      const candidate = new Network();
      candidates.push(candidate);
      times[backend] = await timeWithLimit(candidate, config, current.row, backend, size);
    }
  }
  if (candidates.length && !signal.aborted) {
    times[current.backend] = await timeOf(current, size);
  }
  signal.removeEventListener("abort", end);
  const faster = candidates.filter(({ backend }) => times[backend] < times[current.backend]);
  const fastest = faster.sort((one, other) => times[one.backend] - times[other.backend])[0] ?? current;
  end(fastest);
  return { fastest, times };
}

async function timeWithLimit(candidate, config, row, backend, size) {
  const timer = setTimeout(() => candidate.end(), MEASURING_LIMIT_MS);
  try {
    await candidate.load(config, row, [backend]);
    return await timeOf(candidate, size);
  } catch {
    return Infinity;
  } finally {
    clearTimeout(timer);
  }
}

const timeOf = async (network, size) => (await network.ask("measure", { size })).milliseconds;
