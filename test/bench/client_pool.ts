/** Many clients in a few processes (client_worker.ts), asked for the same thing at the same time. */

import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { Proofs } from '../../mount/options.js';
import { installedVersion } from '../../src/cli/installed.js';
import type { Address } from '../../src/runtime/ports.js';
import type { Answer, Ask, Held, Tasks, Worked } from './client_worker.js';

const script = fileURLToPath(new URL('./client_worker.js', import.meta.url));

export interface PoolOptions {
  readonly processes?: number;
  /** Runs the processes elsewhere: see Host of test/fixtures/hosts.ts. */
  readonly command?: readonly string[];
  readonly proofs?: Proofs;
}

interface Pending {
  resolve(answer: unknown): void;
  reject(error: Error): void;
}

/** One of the processes. */
class Process {
  readonly #child: ChildProcess;
  readonly #pending = new Map<number, Pending>();
  #lastId = 0;

  /** @param command what it is run by. */
  constructor([command, ...args]: readonly string[] = []) {
    const by = command === undefined ? {} : { execPath: command, execArgv: [...args, process.execPath] };
    this.#child = fork(script, [], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'], ...by });
    this.#child.on('message', ({ id, answer, failure }: Answer) => {
      const pending = this.#pending.get(id);
      this.#pending.delete(id);
      if (failure === undefined) pending?.resolve(answer);
      else pending?.reject(new Error(failure));
    });
    this.#child.once('exit', (code, signal) => {
      const error = new Error(`a process of clients ended (${signal ?? `status ${code}`})`);
      for (const { reject } of this.#pending.values()) reject(error);
      this.#pending.clear();
    });
  }

  ask<T extends keyof Tasks>(
    task: T,
    ...[ask]: Parameters<Tasks[T]>
  ): Promise<Awaited<ReturnType<Tasks[T]>>> {
    return new Promise((resolve, reject) => {
      const id = ++this.#lastId;
      this.#pending.set(id, { resolve: resolve as (answer: unknown) => void, reject });
      const request: Ask = { id, task, ask };
      this.#child.send(request);
    });
  }

  /** Nobody needs it any more: it ends when its channel does. */
  async leave(): Promise<void> {
    const ended = once(this.#child, 'exit');
    this.#child.disconnect();
    await ended;
  }

  async end(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    this.#child.kill('SIGKILL');
    await once(this.#child, 'exit');
  }
}

export class ClientPool {
  readonly #processes: readonly Process[];

  private constructor(processes: readonly Process[]) {
    this.#processes = processes;
  }

  /** Connected clients, in turn in each of the processes, and each in a folder of its own. */
  static async start(
    addresses: readonly Address[],
    clients: number,
    { processes = 2, command = [], proofs }: PoolOptions = {},
  ): Promise<ClientPool> {
    const pool = new ClientPool(Array.from({ length: processes }, () => new Process(command)));
    const names = Array.from({ length: clients }, (_, index) => `client-${index}`);
    const version = installedVersion();
    try {
      await pool.#each((process, at) =>
        process.ask('start', {
          addresses,
          names: names.filter((_, index) => index % processes === at),
          version,
          proofs,
        }),
      );
      await pool.home();
    } catch (thrown) {
      await pool.end();
      throw thrown;
    }
    return pool;
  }

  #each<T>(run: (process: Process, at: number) => Promise<T>): Promise<T[]> {
    return Promise.all(this.#processes.map(run));
  }

  async home(folder?: string): Promise<void> {
    for (const process of this.#processes) await process.ask('home', folder === undefined ? {} : { folder });
  }

  /** @param files of each client. */
  async open(files: number, written: number): Promise<void> {
    await this.#each((process) => process.ask('open', { files, written }));
  }

  async sync(): Promise<void> {
    await this.#each((process) => process.ask('sync'));
  }

  /** When the last client could be used with this instance, on the clock of monotonicMs(). */
  async full(instance: number): Promise<number> {
    const all = await this.#each((process) => process.ask('full', { instance }));
    return Math.max(...all.map(({ atMs }) => atMs));
  }

  /** @throws Error unless every one of `opens` is there as it was, and nobody was evicted. */
  async check(opens: number): Promise<void> {
    const all = await this.#each((process) => process.ask('check'));
    const sum = (of: (held: Held) => number): number => all.reduce((total, held) => total + of(held), 0);
    const [open, wrong] = [sum((held) => held.opens), sum((held) => held.wrong)];
    const evictions = sum((held) => held.evictions);
    if (open === opens && wrong === 0 && evictions === 0) return;
    throw new Error(
      `${open} of ${opens} files are open, ${wrong} are wrong, ${evictions} clients were evicted`,
    );
  }

  async work(): Promise<void> {
    await this.#each((process) => process.ask('work'));
  }

  async stop(): Promise<Worked> {
    const all = await this.#each((process) => process.ask('stop'));
    return {
      done: all.flatMap(({ done }) => done),
      longestMs: Math.max(...all.map(({ longestMs }) => longestMs)),
    };
  }

  /** The clients of one process make a file each, the other processes nothing. @returns what the slowest took, in ms. */
  async step(process: number): Promise<number> {
    return (await this.#processes[process]?.ask('step')) ?? 0;
  }

  /** What they have used so far, all together. */
  async processorMs(): Promise<number> {
    const all = await this.#each((process) => process.ask('processorMs'));
    return all.reduce((total, ms) => total + ms, 0);
  }

  async unmount(): Promise<void> {
    await this.#each((process) => process.ask('unmount'));
    await this.#each((process) => process.leave());
  }

  async end(): Promise<void> {
    await this.#each((process) => process.end());
  }
}
