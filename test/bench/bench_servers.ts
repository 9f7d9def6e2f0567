/** Servers of benchmarks: real processes on loop devices, as one host or two see them. Nothing is left of them. */

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseAddress } from '../../src/cli/common.js';
import type { Address } from '../../src/runtime/ports.js';
import { Status, type StatusReply } from '../../src/wire/admin.js';
import { Child, runOk } from '../fixtures/child.js';
import { makeDevices } from '../fixtures/devices.js';
import { freePort } from '../fixtures/failover_pair.js';
import { attachLoop, type LoopDevice } from '../fixtures/loop_device.js';
import { monotonicMs } from './client_worker.js';

// Of the tree that this file was built into, whatever its name.
const main = fileURLToPath(new URL('../../bin/main.js', import.meta.url));
const MIB = 1 << 20;
const META_BYTES = 1024 * MIB;
const DATA_BYTES = 4096 * MIB;
const READY = /^holdfast: serving .*, instance (\d+)/;
/** Beyond what any figure allows: something is wrong. */
const PATIENCE_MS = 120_000;
const CLOCK_TICKS = 100;

/** One end of the shared disks: devices of its own over the same files, and an address. */
export interface Host {
  readonly name: string;
  readonly address: Address;
  readonly deviceArgs: readonly string[];
}

export class BenchServer {
  readonly child: Child;
  readonly startedMs = monotonicMs();

  constructor(child: Child) {
    this.child = child;
  }

  /** @returns its instance, and when it was heard. */
  async ready(): Promise<{ readonly instance: number; readonly atMs: number }> {
    const [, instance] = await this.child.line(READY, PATIENCE_MS);
    return { instance: Number(instance), atMs: monotonicMs() };
  }

  async standingBy(): Promise<void> {
    await this.child.line(/^holdfast: standing by/, PATIENCE_MS);
  }

  /** From now on nothing that is executed is committed. */
  async hold(): Promise<void> {
    this.child.kill('SIGUSR2');
    await this.child.line(/SIGUSR2: nothing is committed/);
  }

  async kill(): Promise<void> {
    this.child.kill('SIGKILL');
    await this.child.exited;
  }

  /** Controlled shutdown, to its end. */
  async stop(): Promise<void> {
    this.child.kill('SIGTERM');
    const { code } = await this.child.exited;
    if (code !== 0) throw new Error(`shutdown failed: ${this.child.tail()}`);
  }

  /** What its process has used so far. */
  processorMs(): number {
    const stat = readFileSync(`/proc/${this.child.pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return ((Number(fields[11]) + Number(fields[12])) * 1000) / CLOCK_TICKS;
  }
}

/** A formatted target and whoever serves it. */
export class BenchServers {
  readonly hosts: readonly Host[];
  readonly #folder: string;
  readonly #loops: readonly LoopDevice[];
  readonly #servers: BenchServer[] = [];
  readonly #onExit = (): void => this.#killAll();

  private constructor(folder: string, hosts: readonly Host[], loops: readonly LoopDevice[]) {
    this.#folder = folder;
    this.hosts = hosts;
    this.#loops = loops;
    process.once('exit', this.#onExit);
  }

  /** @param listenHost the address of all of them. */
  static async make(hostCount = 1, listenHost = '127.0.0.1'): Promise<BenchServers> {
    const folder = mkdtempSync(join(tmpdir(), 'holdfast-bench-'));
    const files = makeDevices(folder, '', META_BYTES, DATA_BYTES);
    const hosts: Host[] = [];
    const loops: LoopDevice[] = [];
    try {
      await runOk(process.execPath, [main, 'mkfs', '--meta', files.meta, '--data', files.data, '--force']);
      for (let at = 0; at < hostCount; at++) {
        const [meta, data] = [await attachLoop(files.meta), await attachLoop(files.data)];
        loops.push(meta, data);
        const address = { host: listenHost, port: await freePort() };
        hosts.push({
          name: `bench-${at}`,
          address,
          deviceArgs: ['--meta', meta.path, '--data', data.path],
        });
      }
    } catch (thrown) {
      for (const loop of loops) loop.close();
      rmSync(folder, { recursive: true, force: true });
      throw thrown;
    }
    return new BenchServers(folder, hosts, loops);
  }

  get #env(): NodeJS.ProcessEnv {
    return { ...process.env, HOLDFAST_RUNTIME_DIR: join(this.#folder, 'run'), HOLDFAST_FAULTS: '1' };
  }

  host(at: number): Host {
    const host = this.hosts[at];
    if (host === undefined) throw new Error(`no host ${at}`);
    return host;
  }

  /** Makes a key for clients of other hosts, whose root is root on the files. @returns its file. */
  async makeKey({ address }: Host): Promise<string> {
    const path = join(this.#folder, 'clients.key');
    const server = `${address.host}:${address.port}`;
    const add = ['access', 'add', 'clients', '--server', server, '--no-root-squash', '--output', path];
    await runOk(process.execPath, [main, ...add], { env: this.#env });
    return path;
  }

  /** Under its own host name: signals reach the server, since every program before it execs the next. */
  start(host: Host, args: readonly string[] = []): BenchServer {
    // Node's own options are for all processes: --cpu-prof.
    const listen = `${host.address.host}:${host.address.port}`;
    const serve = [...process.execArgv, main, 'serve', ...host.deviceArgs, '--listen', listen, ...args];
    const named = ['--uts', 'sh', '-c', 'hostname "$0" && exec "$@"', host.name, process.execPath];
    const server = new BenchServer(new Child('server', 'unshare', [...named, ...serve], this.#env));
    this.#servers.push(server);
    return server;
  }

  #killAll(): void {
    for (const { child } of this.#servers) if (child.exit === undefined) child.kill('SIGKILL');
    rmSync(this.#folder, { recursive: true, force: true });
  }

  async end(): Promise<void> {
    process.removeListener('exit', this.#onExit);
    this.#killAll();
    await Promise.all(this.#servers.map(({ child }) => child.exited));
    for (const loop of this.#loops) loop.close();
  }
}

export async function statusOf({ address }: Host): Promise<StatusReply> {
  const { connectAdmin } = await import('../../src/cli/admin.js');
  const admin = await connectAdmin(parseAddress(`${address.host}:${address.port}`));
  try {
    return (await admin.requester.call(Status, {})).reply;
  } finally {
    admin.close();
  }
}
