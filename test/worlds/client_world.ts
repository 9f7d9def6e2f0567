/** Real clients and a real server in this process, over connections in memory that a test can break. */

import type { TestContext } from 'node:test';
import type { Timespec } from '../../src/base/attr.js';
import { FsError } from '../../src/base/errno.js';
import { type Fh, type Fid, type Name, ROOT_FID } from '../../src/base/ids.js';
import type {
  AttrsWithValidity,
  Caller,
  ClientOptions,
  FsClient,
  KernelCache,
  Predecessor,
} from '../../src/client/api.js';
import { startClient } from '../../src/client/client.js';
import type { Connection, Runtime, Transport } from '../../src/runtime/ports.js';
import type { Server, ServerOptions } from '../../src/server/server.js';
import { memoryPair } from '../fixtures/memory_connection.js';
import type { ScriptedTarget } from '../fixtures/scripted_target.js';
import { type AnyTarget, testRuntime } from '../fixtures/storage_target.js';
import { ServerWorld } from './server_world.js';
import { VirtualTime, type WorldTime } from './virtual_time.js';
import { type WorldOptions, worldTarget } from './world_target.js';

export const O_RDONLY = 0;
export const O_WRONLY = 1;
export const O_RDWR = 2;
export const O_CREAT = 0o100;
export const O_EXCL = 0o200;
export const O_TRUNC = 0o1000;

/** A kernel that caches nothing, and remembers what it was told to drop. */
export class RecordingKernel implements KernelCache {
  readonly told: string[] = [];
  /** Runs while pages are dropped, as the kernel's own requests would. */
  onDropPages:
    | ((fid: Fid, ranges: readonly { start: number; end: number }[] | undefined) => Promise<void>)
    | undefined;

  /** It may have anything: its client tells it all. */
  hasAttrs(): boolean {
    return true;
  }
  /** It refers to these. */
  readonly refers = new Set<Fid>();
  refersTo(fid: Fid): boolean {
    return this.refers.has(fid);
  }
  hasPages(): boolean {
    return true;
  }
  overtakeAttrs(): void {
    this.told.push('overtaken');
  }
  async dropAttrs(fids: readonly Fid[]): Promise<void> {
    this.told.push(`attrs ${fids.join(',')}`);
  }
  async dropNames(): Promise<void> {
    this.told.push('names');
  }
  async dropPages(fid: Fid, ranges?: readonly { start: number; end: number }[]): Promise<void> {
    this.told.push(`pages ${fid}`);
    await this.onDropPages?.(fid, ranges);
  }
}

/** The connections of a client, with what is lost on each. */
class Connections extends Map<Connection, Set<'answers' | 'requests'>> {
  /** The client reaches nobody. */
  offline = false;
}

interface AnyClientWorld {
  readonly time: WorldTime;
  forget(client: TestClient): void;
}

/** One client with short names for what tests do. */
export class TestClient {
  readonly fs: FsClient;
  readonly kernel: RecordingKernel;
  readonly time: WorldTime;
  readonly #world: AnyClientWorld;
  readonly connections: Connections;
  /** A caller that nobody interrupts. Each call has a signal of its own, as those of the kernel have. */
  get op(): Caller {
    return { uid: 1000, gid: 1000, signal: new AbortController().signal };
  }

  constructor(world: AnyClientWorld, fs: FsClient, kernel: RecordingKernel, connections: Connections) {
    this.#world = world;
    this.time = world.time;
    this.fs = fs;
    this.kernel = kernel;
    this.connections = connections;
  }

  /** An operation that can be interrupted. */
  interruptible(): { op: Caller; interrupt(): void } {
    const abort = new AbortController();
    return { op: { uid: 1000, gid: 1000, signal: abort.signal }, interrupt: () => abort.abort() };
  }

  /** The connection breaks; the client connects again by itself. */
  breakConnection(): void {
    for (const connection of this.connections.keys()) connection.destroy(new Error('broken by the test'));
  }

  /** The client reaches no server. */
  offline(): void {
    this.connections.offline = true;
    this.breakConnection();
  }

  online(): void {
    this.connections.offline = false;
  }

  /** Nothing arrives any more in this direction, until the connection breaks. */
  lose(what: 'answers' | 'requests'): void {
    for (const lost of this.connections.values()) lost.add(what);
  }

  get target() {
    const target = this.fs.status().targets[0];
    if (target === undefined) throw new Error('no target');
    return target;
  }

  async create(name: string, flags = O_RDWR, parent = ROOT_FID): Promise<{ fid: Fid; fh: Fh }> {
    const made = await this.fs.createAndOpen(
      this.op,
      parent,
      name as Name,
      { mode: 0o100644, umask: 0 },
      flags | O_CREAT,
    );
    return { fid: made.known.attr.fid, fh: made.fh };
  }

  async mkdir(name: string, parent = ROOT_FID): Promise<Fid> {
    const object = { mode: 0o040755, umask: 0 };
    return (await this.fs.create(this.op, parent, name as Name, object)).attr.fid;
  }

  async lookup(name: string, parent = ROOT_FID): Promise<AttrsWithValidity | undefined> {
    const found = await this.fs.lookup(this.op, parent, name as Name);
    return found.attr === null ? undefined : (found as AttrsWithValidity);
  }

  async open(name: string, flags = O_RDONLY, parent = ROOT_FID): Promise<{ fid: Fid; fh: Fh }> {
    const found = await this.lookup(name, parent);
    if (found === undefined) throw new FsError('ENOENT', name);
    return { fid: found.attr.fid, fh: await this.fs.open(this.op, found.attr.fid, flags) };
  }

  async write(
    file: { fid: Fid; fh: Fh },
    offset: number,
    data: string | Uint8Array,
    append = false,
  ): Promise<number> {
    return await this.fs.write(this.op, file.fh, file.fid, offset, Buffer.from(data as string), {
      append,
      writeback: false,
      sync: false,
      killSuidgid: false,
    });
  }

  async read(file: { fid: Fid; fh: Fh }, offset: number, length: number): Promise<Buffer> {
    return Buffer.concat(await this.fs.read(this.op, file.fh, file.fid, offset, length));
  }

  async text(file: { fid: Fid; fh: Fh }): Promise<string> {
    return (await this.read(file, 0, 1 << 20)).toString();
  }

  async size(fid: Fid): Promise<number> {
    return (await this.fs.getattr(this.op, fid)).attr.sizeBytes;
  }

  async close(file: { fh: Fh }, owner = '0000000000000001'): Promise<void> {
    await this.fs.flush(this.op, file.fh, owner);
    this.fs.release(file.fh, owner);
  }

  async unlink(name: string, parent = ROOT_FID): Promise<void> {
    await this.fs.unlink(this.op, parent, name as Name, false);
  }

  async names(parent = ROOT_FID): Promise<string[]> {
    const fh = await this.fs.open(this.op, parent, 0);
    const names: string[] = [];
    let cookie = 0;
    for (;;) {
      const { entries, end } = await this.fs.readdir(this.op, fh, cookie, 100, true);
      for (const entry of entries) names.push(entry.name);
      cookie = entries.at(-1)?.cookie ?? cookie;
      if (end) break;
    }
    this.fs.release(fh, undefined);
    return names.sort();
  }

  async setattr(
    fid: Fid,
    change: { sizeBytes?: number; mode?: number; mtime?: Timespec | 'now' },
  ): Promise<AttrsWithValidity> {
    return await this.fs.setattr(this.op, fid, { ...change, killSuidgid: false });
  }

  /** What its tables say of themselves must be so. */
  check(): void {
    for (const table of this.fs.checked()) table.checkInvariants();
  }

  unmount(): Promise<void> {
    this.#world.forget(this);
    return this.fs.unmount();
  }
}

export class ClientWorld {
  readonly time: WorldTime;
  readonly servers: ServerWorld;
  server: Server | undefined;
  readonly #clients = new Set<TestClient>();
  #uuids = 0;

  constructor(target: AnyTarget, time: WorldTime) {
    this.time = time;
    this.servers = new ServerWorld(target, time);
  }

  async start(options: Partial<ServerOptions> = {}): Promise<Server> {
    this.server = await this.servers.server(options);
    return this.server;
  }

  /** Killed, with all that was not durable, and started again. */
  async crash(while_?: () => Promise<void>): Promise<void> {
    await this.servers.crash();
    await while_?.();
    await this.start();
  }

  /** A controlled shutdown, then another version. */
  async upgrade(softwareVersion: string, while_?: () => Promise<void>): Promise<void> {
    await this.server?.shutdown();
    await while_?.();
    await this.start({ softwareVersion });
  }

  async client(name: string, options: Partial<ClientOptions> = {}, from?: Predecessor): Promise<TestClient> {
    const kernel = new RecordingKernel();
    const connections = new Connections();
    const all = {
      addresses: [{ host: 'memory', port: 1 }],
      name,
      softwareVersion: '1.0.0',
      cacheBytes: 64 << 20,
      connectTimeoutMs: 5000,
      kernel,
      ...options,
    };
    const fs = await startClient(this.#runtime(connections), all, from);
    const client = new TestClient(this, fs, kernel, connections);
    this.#clients.add(client);
    return client;
  }

  /** Another process that goes on as the client. The first one must not be unmounted: for its servers it is the same. */
  async successor(before: TestClient, from: Predecessor, softwareVersion = '2.0.0'): Promise<TestClient> {
    this.forget(before);
    return this.client('successor', { softwareVersion }, from);
  }

  forget(client: TestClient): void {
    this.#clients.delete(client);
  }

  async end(): Promise<void> {
    // A client whose server is gone for good would try for ever to bring its data home.
    for (const client of this.#clients) await client.unmount();
    await this.servers.end();
  }

  #runtime(connections: Connections): Runtime {
    const transport: Transport = {
      listen: () => Promise.reject(new Error('clients do not listen')),
      connect: async (address, open) => {
        if (!this.servers.listens || connections.offline) throw new FsError('ECONNREFUSED', 'nobody listens');
        const lost = new Set<'answers' | 'requests'>();
        const accept = this.servers.accept(address.port);
        const { aConnection } = memoryPair(
          (connection) => {
            const events = open(connection);
            return {
              data: (chunk) => lost.has('answers') || events.data(chunk),
              drain: () => events.drain(),
              closed: (error) => {
                connections.delete(connection);
                events.closed(error);
              },
            };
          },
          (connection) => {
            const events = accept(connection);
            return {
              data: (chunk) => lost.has('requests') || events.data(chunk),
              drain: () => events.drain(),
              closed: (error) => events.closed(error),
            };
          },
        );
        connections.set(aConnection, lost);
        return aConnection;
      },
    };
    const uuid = (): string => {
      this.#uuids += 1;
      return `10000000-0000-4000-8000-${this.#uuids.toString(16).padStart(12, '0')}`;
    };
    return { ...this.servers.runtime, rng: { u32: () => 4, uuid }, transport };
  }
}

export async function clientWorld(
  t: TestContext,
  options: Partial<ServerOptions> = {},
  targetOptions: WorldOptions = {},
): Promise<ClientWorld> {
  const { target, time } = await worldTarget(t, { dataBytes: 256 << 20, ...targetOptions });
  const world = new ClientWorld(target, time);
  t.after(() => world.end());
  await world.start(options);
  return world;
}

/** Clients of targets that do as they are told. Target n listens at port n + 1. */
export class ScriptedWorld {
  readonly time = new VirtualTime();
  readonly #targets: readonly ScriptedTarget[];
  readonly #clients = new Set<TestClient>();
  #uuids = 0;

  constructor(targets: readonly ScriptedTarget[]) {
    this.#targets = targets;
  }

  async client(name: string, options: Partial<ClientOptions> = {}): Promise<TestClient> {
    const kernel = new RecordingKernel();
    const connections = new Connections();
    const fs = await startClient(this.#runtime(connections), {
      addresses: this.#targets.map((_target, index) => ({ host: 'scripted', port: index + 1 })),
      name,
      softwareVersion: '1.0.0',
      cacheBytes: 64 << 20,
      connectTimeoutMs: 5000,
      kernel,
      ...options,
    });
    const client = new TestClient(this, fs, kernel, connections);
    this.#clients.add(client);
    return client;
  }

  forget(client: TestClient): void {
    this.#clients.delete(client);
  }

  async end(): Promise<void> {
    for (const target of this.#targets) target.behave();
    for (const client of this.#clients) await client.unmount();
    this.time.stop();
  }

  #runtime(connections: Connections): Runtime {
    const transport: Transport = {
      listen: () => Promise.reject(new Error('clients do not listen')),
      connect: async (address, open, { timeoutMs }) => {
        const target = this.#targets[address.port - 1];
        if (target?.blackHole === true) {
          await this.time.sleep(timeoutMs);
          throw new FsError('ETIMEDOUT', 'no answer');
        }
        if (target?.listening !== true) throw new FsError('ECONNREFUSED', 'nobody listens');
        const { aConnection } = memoryPair(open, target.accept);
        connections.set(aConnection, new Set());
        return aConnection;
      },
    };
    const uuid = (): string => {
      this.#uuids += 1;
      return `20000000-0000-4000-8000-${this.#uuids.toString(16).padStart(12, '0')}`;
    };
    const { clock, timers } = this.time;
    return { ...testRuntime(), clock, timers, rng: { u32: () => 4, uuid }, transport };
  }
}

export function scriptedWorld(t: TestContext, targets: readonly ScriptedTarget[]): ScriptedWorld {
  const world = new ScriptedWorld(targets);
  t.after(() => world.end());
  return world;
}

/** The errno name that it fails with. */
export async function errnoOf(run: () => unknown): Promise<string> {
  try {
    await run();
  } catch (error) {
    return error instanceof FsError ? error.code : String(error);
  }
  return 'no error';
}
