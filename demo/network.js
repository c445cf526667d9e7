// A network in a worker of its own, and which backend computes it fastest on this machine.

import { AUTOMATIC, runsHere } from "./backends.js";

// Of these, the one that is measured to be the fastest; plain JavaScript never is.
const MEASURED = ["wasm", "webgl", "webgpu"];

// How long another backend may take to load, to compile and to prove itself. One emulated in software needs minutes.
const PATIENCE = 15_000;

export class Network {
  #worker = new Worker("worker.js", { type: "module" });
  #waiting = new Map();
  #requests = 0;
  #retired = false;

  /** Start a worker; `onProgress` is told how much of the network is loaded, 0 to 1. */
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

  /** Load a row of `config.networks`, on the first of some backends that runs. */
  async load(config, row, backends) {
    const { backend, detail, missing } = await this.ask("load", { config, network: row, backends });
    Object.assign(this, { row, backend, detail });
    return missing;
  }

  /** Free the worker once nobody waits for an answer. */
  retire() {
    this.#retired = true;
    if (!this.#waiting.size) {
      this.end();
    }
  }

  /** Free the worker; whoever still waits for an answer gets the error. */
  end(error = new Error("The network was replaced.")) {
    this.#worker.terminate();
    this.#waiting.forEach(({ reject }) => reject(error));
    this.#waiting.clear();
  }
}

/** The backends to try for what the menu says: the one asked for, or what starts soonest. */
export const candidatesFor = (requested) => (requested === "auto" ? AUTOMATIC : [requested, ...AUTOMATIC]);

/**
 * Measure the backends that a network does not run on, each in a worker of its own, while the network goes on working.
 *
 * @param {Network} current the network that is loaded.
 * @param {object} config of the page.
 * @param {number[]} size of the input to measure with.
 * @param {AbortSignal} signal to give up.
 * @returns {Promise<{fastest: Network, times: object}>} the fastest, which may be `current`, and the milliseconds by
 *     backend; Infinity for one that failed or took longer than the patience for it.
 */
export async function findFastest(current, config, size, signal) {
  const candidates = [];
  const end = (spared) => candidates.filter((network) => network !== spared).forEach((network) => network.end());
  signal.addEventListener("abort", end, { once: true });
  const times = {};
  for (const backend of MEASURED.filter((name) => name !== current.backend)) {
    if (!signal.aborted && (await runsHere(backend))) {
      const candidate = new Network();
      candidates.push(candidate);
      times[backend] = await timeWithPatience(candidate, config, current.row, backend, size);
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

async function timeWithPatience(candidate, config, row, backend, size) {
  const timer = setTimeout(() => candidate.end(), PATIENCE);
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
