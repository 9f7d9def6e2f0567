/**
 * A process with many clients and no mounts: what client_pool.ts asks for, done by real Clients over TCP. Requests come
 * and answers leave over node's IPC channel; the process ends with it.
 *
 * Moments are read from CLOCK_MONOTONIC, which all processes of a machine share.
 */

import type { Proofs } from '../../mount/options.js';
import type { Fh, Fid, Name } from '../../src/base/ids.js';
import { ROOT_FID } from '../../src/base/ids.js';
import { proverOf } from '../../src/cli/credentials.js';
import type { Caller, FsClient, KernelCache } from '../../src/client/api.js';
import { startClient } from '../../src/client/client.js';
import { nodeRuntime } from '../../src/runtime/node_runtime.js';
import type { Address } from '../../src/runtime/ports.js';

const O_RDWR_CREAT = 0o102;
const DIRECTORY = { mode: 0o040755, umask: 0 };
const FILE = { mode: 0o100644, umask: 0 };
const CONTENT = Buffer.alloc(1024, 'x');
const CACHE_BYTES = 64 << 20;
/** Of its files each client looks at so many, evenly spread. */
const CHECKED = 200;

const noKernel: KernelCache = {
  hasAttrs: () => false,
  refersTo: () => false,
  hasPages: () => false,
  overtakeAttrs: () => undefined,
  dropAttrs: async () => undefined,
  dropNames: async () => undefined,
  dropPages: async () => undefined,
};

/** What a worker can be asked, with its answer. */
export interface Tasks {
  start(ask: Beginning & { readonly names: readonly string[] }): Promise<void>;
  /** Each client makes a folder of its own, or finds the one that is named, and works in it. */
  home(ask: { readonly folder?: string }): Promise<void>;
  /** Each client makes so many files more, writes 1 KiB to the first `written` of them, and keeps all open. */
  open(ask: { readonly files: number; readonly written: number }): Promise<void>;
  /** What each client has done is durable. */
  sync(): Promise<void>;
  /** Resolves when all use this instance or a later one. */
  full(ask: { readonly instance: number }): Promise<Recovered>;
  /** Files that were opened are there, with their content, through their handles. */
  check(): Promise<Held>;
  /** Each client makes and closes files, one after the other, until stop(). */
  work(): Promise<void>;
  stop(): Promise<Worked>;
  /** Each client makes and closes one file. Answers what the slowest took. */
  step(): Promise<number>;
  processorMs(): Promise<number>;
  unmount(): Promise<void>;
}

export interface Beginning {
  readonly addresses: readonly Address[];
  readonly version: string;
  /** undefined: what the kernel says of a process of the server's host. */
  readonly proofs?: Proofs | undefined;
}
export interface Recovered {
  /** When the last of them was. */
  readonly atMs: number;
}
export interface Held {
  readonly opens: number;
  readonly wrong: number;
  readonly evictions: number;
}
export interface Worked {
  /** Operations of each client. */
  readonly done: readonly number[];
  /** The longest that one of them took. */
  readonly longestMs: number;
}

export interface Ask {
  readonly id: number;
  readonly task: keyof Tasks;
  readonly ask: unknown;
}
export interface Answer {
  readonly id: number;
  readonly answer?: unknown;
  readonly failure?: string;
}

export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

interface OpenFile {
  readonly fid: Fid;
  readonly fh: Fh;
  readonly written: boolean;
}

/** One client and what it has open. */
class BenchClient {
  readonly name: string;
  #fs: FsClient | undefined;
  #home: Fid = ROOT_FID;
  readonly #files: OpenFile[] = [];
  #made = 0;
  #fullAtMs = 0;
  #isFull = false;
  readonly #told: (client: BenchClient) => void;
  longestMs = 0;

  /** @param told it has become usable. */
  constructor(name: string, told: (client: BenchClient) => void) {
    this.name = name;
    this.#told = told;
  }

  get fs(): FsClient {
    if (this.#fs === undefined) throw new Error(`${this.name} has not started`);
    return this.#fs;
  }

  get #op(): Caller {
    return { uid: 0, gid: 0, signal: new AbortController().signal };
  }

  async start({ addresses, version: softwareVersion, proofs }: Beginning): Promise<void> {
    const prover = proofs === undefined ? undefined : proverOf(proofs);
    this.#fs = await startClient(nodeRuntime(), {
      addresses,
      credentials: () => prover?.credentials(),
      access: prover?.claim,
      name: this.name,
      softwareVersion,
      cacheBytes: CACHE_BYTES,
      connectTimeoutMs: 10_000,
      kernel: noKernel,
      onState: (text) => this.#state(text),
    });
  }

  #state(text: string): void {
    this.#isFull = text.endsWith(': FULL');
    if (!this.#isFull) return;
    this.#fullAtMs = monotonicMs();
    this.#told(this);
  }

  /** When it became usable, if it is, and with this instance. */
  fullAtMs(instance: number): number | undefined {
    const [target] = this.fs.status().targets;
    return this.#isFull && target !== undefined && target.instance >= instance ? this.#fullAtMs : undefined;
  }

  async home(folder: string | undefined): Promise<void> {
    const name = (folder ?? this.name) as Name;
    const found = await this.fs.lookup(this.#op, ROOT_FID, name);
    const known = found.attr === null ? await this.fs.create(this.#op, ROOT_FID, name, DIRECTORY) : found;
    this.#home = known.attr.fid;
  }

  async open(files: number, written: number): Promise<void> {
    for (let at = 0; at < files; at++) this.#files.push(await this.#make(at < written));
  }

  async #make(written: boolean): Promise<OpenFile> {
    const name = `${this.name}-${this.#made++}` as Name;
    const { known, fh } = await this.fs.createAndOpen(this.#op, this.#home, name, FILE, O_RDWR_CREAT);
    const { fid } = known.attr;
    if (written) {
      const how = { append: false, writeback: false, sync: false, killSuidgid: false };
      await this.fs.write(this.#op, fh, fid, 0, CONTENT, how);
    }
    return { fid, fh, written };
  }

  async sync(): Promise<void> {
    await Promise.all(this.#files.map(({ fh }) => this.fs.fsync(this.#op, fh)));
  }

  async check(): Promise<Held> {
    let wrong = 0;
    const each = Math.ceil(this.#files.length / CHECKED);
    for (const [at, { fid, fh, written }] of this.#files.entries()) {
      if (at % each !== 0) continue;
      const chunks = await this.fs.read(this.#op, fh, fid, 0, 2 * CONTENT.length);
      const { attr } = await this.fs.getattr(this.#op, fid);
      const expected = written ? CONTENT : Buffer.alloc(0);
      if (attr.nlink !== 1 || !Buffer.concat(chunks).equals(expected)) wrong += 1;
    }
    const [target] = this.fs.status().targets;
    return { opens: target?.opens ?? 0, wrong, evictions: target?.evictions.length ?? 0 };
  }

  async work(until: AbortSignal): Promise<number> {
    this.longestMs = 0;
    let done = 0;
    for (; !until.aborted; done++) this.longestMs = Math.max(this.longestMs, await this.step());
    return done;
  }

  /** @returns what it took, in milliseconds. */
  async step(): Promise<number> {
    const beganMs = monotonicMs();
    const { fh } = await this.#make(false);
    this.fs.release(fh, undefined);
    return monotonicMs() - beganMs;
  }
}

class Worker implements Tasks {
  #clients: BenchClient[] = [];
  #became: (client: BenchClient) => void = () => undefined;
  #stopping = new AbortController();
  #working: Promise<number[]> = Promise.resolve([]);

  async start({ names, ...beginning }: Parameters<Tasks['start']>[0]): Promise<void> {
    this.#clients = names.map((name) => new BenchClient(name, (client) => this.#became(client)));
    await this.#each((client) => client.start(beginning));
  }

  async #each<T>(run: (client: BenchClient) => Promise<T>): Promise<T[]> {
    return await Promise.all(this.#clients.map(run));
  }

  async home({ folder }: Parameters<Tasks['home']>[0]): Promise<void> {
    await this.#each((client) => client.home(folder));
  }

  async open({ files, written }: Parameters<Tasks['open']>[0]): Promise<void> {
    await this.#each((client) => client.open(files, written));
  }

  async sync(): Promise<void> {
    await this.#each((client) => client.sync());
  }

  full({ instance }: Parameters<Tasks['full']>[0]): Promise<Recovered> {
    return new Promise((resolve) => {
      const missing = new Set(this.#clients);
      let lastMs = 0;
      this.#became = (client) => {
        const atMs = client.fullAtMs(instance);
        if (atMs === undefined) return;
        lastMs = Math.max(lastMs, atMs);
        missing.delete(client);
        if (missing.size > 0) return;
        this.#became = () => undefined;
        resolve({ atMs: lastMs });
      };
      for (const client of this.#clients) this.#became(client);
    });
  }

  async check(): Promise<Held> {
    const all = await this.#each((client) => client.check());
    const sum = (of: (held: Held) => number): number => all.reduce((total, held) => total + of(held), 0);
    return {
      opens: sum(({ opens }) => opens),
      wrong: sum(({ wrong }) => wrong),
      evictions: sum(({ evictions }) => evictions),
    };
  }

  async work(): Promise<void> {
    this.#stopping = new AbortController();
    const { signal } = this.#stopping;
    this.#working = this.#each((client) => client.work(signal));
    // Looked at by stop().
    this.#working.catch(() => undefined);
  }

  async stop(): Promise<Worked> {
    this.#stopping.abort();
    const done = await this.#working;
    return { done, longestMs: Math.max(...this.#clients.map(({ longestMs }) => longestMs)) };
  }

  async step(): Promise<number> {
    return Math.max(...(await this.#each((client) => client.step())));
  }

  async processorMs(): Promise<number> {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1000;
  }

  async unmount(): Promise<void> {
    await this.#each((client) => client.fs.unmount());
  }
}

function serve(worker: Tasks): void {
  const tell = (answer: Answer): void => {
    process.send?.(answer);
  };
  process.on('message', ({ id, task, ask }: Ask) => {
    const run = worker[task].bind(worker) as (ask: unknown) => Promise<unknown>;
    run(ask).then(
      (answer) => tell({ id, answer }),
      (thrown: unknown) =>
        tell({ id, failure: thrown instanceof Error ? String(thrown.stack) : String(thrown) }),
    );
  });
  // Whoever started it is gone.
  process.once('disconnect', () => process.exit(1));
}

serve(new Worker());
