/** A real server in this process, over connections in memory, and clients that speak raw RPCs to it. */

import type { TestContext } from 'node:test';
import type { Attr } from '../../src/base/attr.js';
import {
  type Fh,
  type Fid,
  type LockHandle,
  type Name,
  ROOT_FID,
  type Transno,
  type Xid,
} from '../../src/base/ids.js';
import type { Answer, CallOptions, Frame } from '../../src/rpc/api.js';
import { FrameLink } from '../../src/rpc/link.js';
import { Requester } from '../../src/rpc/requester.js';
import { Service } from '../../src/rpc/service.js';
import type {
  Connection,
  ConnectionEvents,
  FaultPoint,
  Origin,
  Runtime,
  Transport,
} from '../../src/runtime/ports.js';
import type { AccessTable } from '../../src/server/access/access_table.js';
import { createServer, type Server, type ServerOptions } from '../../src/server/server.js';
import type { StoreOptions } from '../../src/storage/api.js';
import { openTarget } from '../../src/storage/target.js';
import { ShutdownEnds, type ShutdownEndsNotice } from '../../src/wire/admin.js';
import { Read, Write } from '../../src/wire/data.js';
import { FLAG_RECOVERY, FLAG_REPLAY, KIND } from '../../src/wire/header.js';
import { Bast, Cancel, Cast, Enqueue, Glimpse, type GrantMessage } from '../../src/wire/lock.js';
import { Close, Create, Lookup } from '../../src/wire/meta.js';
import type { Operation, ReplyOf, RequestOf } from '../../src/wire/operation.js';
import { encode } from '../../src/wire/schema.js';
import {
  Connect,
  type ConnectReply,
  type ConnectRequest,
  Evicted,
  RecoveryDone,
  Replayed,
  ReplayLocks,
  ReplayOpens,
} from '../../src/wire/session.js';
import { memoryPair } from '../fixtures/memory_connection.js';
import { type AnyTarget, type TestRuntime, testRuntime } from '../fixtures/storage_target.js';
import type { WorldTime } from './virtual_time.js';
import { type WorldOptions, worldTarget } from './world_target.js';

type Accept = (connection: Connection) => ConnectionEvents;

export class ServerWorld {
  readonly target: AnyTarget;
  readonly time: WorldTime;
  readonly runtime: Runtime & Pick<TestRuntime, 'counted'>;
  /** Ports in use, as a machine has them. */
  readonly #listening = new Map<number, Accept>();
  readonly #servers: Server[] = [];
  #held = false;
  /** Of the stores of servers that are started from now on. */
  storeOptions: StoreOptions = {};
  /** What the servers said, newest last. */
  readonly said: string[] = [];
  #clients = 0;

  constructor(target: AnyTarget, time: WorldTime) {
    this.target = target;
    this.time = time;
    const transport: Transport = {
      listen: async (address, accept) => {
        this.#listening.set(address.port, accept);
        return {
          address,
          close: async () => {
            this.#listening.delete(address.port);
          },
        };
      },
      connect: () => Promise.reject(new Error('clients of this world use connect()')),
    };
    const faults = { strikes: (point: FaultPoint) => point === 'commit.hold' && this.#held };
    const { clock, timers } = time;
    this.runtime = { ...testRuntime(), clock, timers, transport, faults };
  }

  /** The server that was started last. */
  get last(): Server {
    const server = this.#servers.at(-1);
    if (server === undefined) throw new Error('no server was started');
    return server;
  }

  /** The access table of that server. */
  get table(): AccessTable {
    const { target } = this.last;
    if (target === undefined) throw new Error('the server has no target');
    return target.access;
  }

  /** The server goes on answering, and nothing is committed from now on. */
  hold(): void {
    this.#held = true;
  }

  /** The server is gone without a word, and what was not durable with it. */
  async crash(): Promise<void> {
    await this.last.stop();
    this.#held = false;
  }

  /** Of the target, as the last server left it. */
  async server(options: Partial<ServerOptions> = {}): Promise<Server> {
    const server = createServer(this.runtime, {
      listen: { host: 'memory', port: 1 },
      softwareVersion: '1.0.0',
      onState: (text) => this.said.push(text),
      ...options,
    });
    this.#servers.push(server);
    await server.listen();
    const store = await openTarget(this.runtime, this.target.devices, this.storeOptions);
    await server.activate(store);
    return server;
  }

  client(name = `client${++this.#clients}`): RawClient {
    const client = new RawClient(this, name);
    return client;
  }

  /** A client that replays after a crash; connected, with the active lock. */
  async replaying(name: string): Promise<RawClient> {
    const client = this.client(name);
    client.features = 7;
    await client.connect();
    await client.activate();
    return client;
  }

  /** A client that is connected and holds the active lock. */
  async connected(name?: string): Promise<RawClient> {
    const client = this.client(name);
    await client.connect();
    await client.activate();
    return client;
  }

  accept(port = 1): Accept {
    const accept = this.#listening.get(port);
    if (accept === undefined) throw new Error(`nothing listens at port ${port}`);
    return accept;
  }

  get listens(): boolean {
    return this.#listening.has(1);
  }

  async end(): Promise<void> {
    for (const server of this.#servers) await server.stop();
    this.time.stop();
  }
}

export async function serverWorld(t: TestContext, options: WorldOptions = {}): Promise<ServerWorld> {
  const { target, time } = await worldTarget(t, options);
  const world = new ServerWorld(target, time);
  t.after(() => world.end());
  return world;
}

/** An operation that was answered, as it is sent again after a crash. */
export interface Answered {
  readonly operation: Operation<unknown, unknown>;
  readonly request: unknown;
  readonly bulk: readonly Uint8Array[] | undefined;
  readonly xid: Xid;
  readonly transno: Transno;
  readonly reply: unknown;
}

/** What a client has again after a crash. */
export interface Recovered {
  /** Errno of each replay, in order; 0 for those that were executed. */
  readonly replays: readonly number[];
  readonly lost: readonly Fh[];
  /** Handles of the locks, in order. */
  readonly locks: readonly number[];
}

const CONTENT_MODES: ReadonlyMap<number, 'PR' | 'PW'> = new Map([
  [Read.opcode, 'PR'],
  [Write.opcode, 'PW'],
]);

/** What a glimpse of this client is answered. */
type GlimpseAnswer = ReplyOf<typeof Glimpse>;

export class RawClient {
  readonly uuid: string;
  readonly name: string;
  readonly time: WorldTime;
  readonly requester = new Requester();
  /** Locks that the server asked for. */
  readonly basts: { readonly handle: LockHandle; readonly type: string; readonly fid?: Fid | undefined }[] =
    [];
  readonly casts: { readonly handle: LockHandle; readonly errno?: number | undefined }[] = [];
  readonly evictions: string[] = [];
  /** Of the shutdown that it asked for. */
  shutdownEnd: ShutdownEndsNotice | undefined;
  /** Gives locks back as soon as they are asked for; the active lock not. */
  yields = true;
  glimpse: GlimpseAnswer | undefined;
  glimpses = 0;
  softwareVersion = '1.0.0';
  features = 3;
  /** Where its connections come from. undefined: from root of this host. */
  origin: Origin | undefined;
  /** Operations with a transno that were answered, in the order of their answers. */
  readonly answered: Answered[] = [];
  lastCommitted = 0;
  /** READ and WRITE get the lock that they need. false: the test locks itself, or is a client that keeps to no rules. */
  locksContent = true;
  readonly #replays = new Map<number, (errno: number) => void>();
  instance: number | undefined;
  active: LockHandle | undefined;
  /** Replies that come while this is set are lost. */
  deaf = false;
  link: FrameLink | undefined;
  closed = true;
  readonly #world: ServerWorld;
  readonly #service = new Service<undefined>();
  #serverInstance: number | undefined;
  #connCount = 0;
  #nextFid = 0;
  #nextFh = 1;

  constructor(world: ServerWorld, name: string) {
    this.#world = world;
    this.time = world.time;
    this.name = name;
    const digits = Buffer.from(name).toString('hex').padStart(12, '0').slice(-12);
    this.uuid = `00000000-0000-4000-8000-${digits}`;
    this.#service.on(Bast, (_context, bast) => {
      this.basts.push(bast);
      if (this.yields && bast.type !== 'active')
        void this.call(Cancel, { handles: [bast.handle] }).catch(() => undefined);
      return undefined;
    });
    this.#service.on(Cast, (_context, cast) => {
      this.casts.push(cast);
      return undefined;
    });
    this.#service.on(Evicted, (_context, { reason }) => {
      this.evictions.push(reason);
      return undefined;
    });
    this.#service.on(ShutdownEnds, (_context, end) => {
      this.shutdownEnd = end;
      return undefined;
    });
    this.#service.on(Glimpse, () => {
      this.glimpses += 1;
      return this.glimpse === undefined ? new Promise(() => undefined) : { reply: this.glimpse };
    });
  }

  /** A new connection, and nothing through it. */
  dial(): FrameLink {
    this.link?.destroy();
    this.requester.detach();
    this.#connCount += 1;
    const connCount = this.#connCount;
    const { a } = memoryPair(
      (connection) => new FrameLink(connection, { connCount }, (link) => this.#events(link)),
      this.#world.accept(),
      { origin: this.origin },
    );
    this.link = a;
    this.closed = false;
    this.requester.attach(a, { resend: false });
    return a;
  }

  /** A new connection, and CONNECT through it. */
  async connect(request: Partial<ConnectRequest> = {}): Promise<ConnectReply> {
    const a = this.dial();
    const connCount = this.#connCount;
    const { reply } = await this.requester.call(
      Connect,
      {
        uuid: this.uuid as ConnectRequest['uuid'],
        name: this.name,
        protocolMin: 1,
        protocolMax: 1,
        features: this.features,
        softwareVersion: this.softwareVersion,
        connCount,
        previousInstance: this.instance,
        role: 'client',
        ...request,
      },
      { connectionOnly: true },
    );
    this.#serverInstance = reply.instance;
    if (reply.lastCommitted !== undefined) this.lastCommitted = reply.lastCommitted;
    if (reply.outcome === 'new' || reply.outcome === 'resumed') this.instance = reply.instance;
    if (reply.fids !== undefined) this.#nextFid = reply.fids.start;
    if (reply.outcome === 'resumed') this.requester.attach(a, { resend: true });
    return reply;
  }

  /** After 'recover': opens, then the end of recovery; answered when the window ends. */
  async recover(opens: readonly { fid: Fid; fh: Fh; flags: number }[] = []): Promise<readonly Fh[]> {
    const lost = await this.call(ReplayOpens, { opens }, { flags: FLAG_RECOVERY });
    await this.call(RecoveryDone, {}, { flags: FLAG_RECOVERY });
    this.instance = this.#serverInstance;
    return lost.lost;
  }

  /** What was answered and is not durable, in the order of transnos. */
  uncommitted(): Answered[] {
    const { lastCommitted } = this;
    return this.answered
      .filter(({ transno }) => transno > lastCommitted)
      .sort((a, b) => a.transno - b.transno);
  }

  /** Sends it again, as it was, with the time and (BATCH) the positions it had. @returns its errno; never if the connection breaks. */
  replay(
    { operation, request, bulk, xid, transno, reply }: Answered,
    flags = FLAG_REPLAY | FLAG_RECOVERY,
  ): Promise<number> {
    const { link } = this;
    if (link === undefined) throw new Error('not connected');
    const { parentAttr, attr, positions } = reply as { parentAttr?: Attr; attr?: Attr; positions?: unknown };
    const time = (parentAttr ?? attr)?.ctime;
    const body = encode(operation.request, { ...(request as object), time, positions });
    return new Promise((resolve) => {
      this.#replays.set(xid, resolve);
      const { opcode } = operation;
      link.send({ kind: KIND.request, opcode, flags, xid, ackXidOrCommitted: 0, transno }, body, bulk);
    });
  }

  /** After 'recover': all of it, but for the end of recovery. */
  async replayAll(
    opens: readonly { fid: Fid; fh: Fh; flags: number }[] = [],
    locks: RequestOf<typeof ReplayLocks>['locks'] = [],
  ): Promise<Recovered> {
    const recovery = { flags: FLAG_RECOVERY };
    const sent = this.uncommitted().map((one) => this.replay(one));
    await this.call(Replayed, {}, recovery);
    const replays = await Promise.all(sent);
    const { lost } = await this.call(ReplayOpens, { opens }, recovery);
    const { handles } = await this.call(ReplayLocks, { locks }, recovery);
    return { replays, lost, locks: handles };
  }

  /** Connects to the next instance and recovers; then sends again what has no answer. */
  async comeBack(
    opens: readonly { fid: Fid; fh: Fh; flags: number }[] = [],
    locks: RequestOf<typeof ReplayLocks>['locks'] = [],
  ): Promise<Recovered> {
    const { outcome, reason } = await this.connect({ hasMoreThanOpens: true });
    if (outcome !== 'recover') throw new Error(`${this.name}: ${outcome}: ${reason}`);
    const recovered = await this.replayAll(opens, locks);
    await this.call(RecoveryDone, {}, { flags: FLAG_RECOVERY });
    await this.goOn();
    return recovered;
  }

  /** Recovery is over. */
  async goOn(): Promise<void> {
    this.instance = this.#serverInstance;
    await this.activate();
    if (this.link !== undefined) this.requester.attach(this.link, { resend: true });
  }

  async activate(): Promise<void> {
    this.active = (await this.call(Enqueue, { type: 'active', mode: 'PR' })).handle;
  }

  /** The end of a drain: nothing is held any more. */
  async giveUpActive(): Promise<void> {
    const { active } = this;
    if (active === undefined) throw new Error('the active lock is not held');
    this.active = undefined;
    await this.call(Cancel, { handles: [active] });
  }

  async call<Q, R>(operation: Operation<Q, R>, request: Q, options?: CallOptions<R>): Promise<R> {
    return (await this.answer(operation, request, options)).reply;
  }

  async answer<Q, R>(operation: Operation<Q, R>, request: Q, options?: CallOptions<R>): Promise<Answer<R>> {
    const { fid } = request as { fid?: Fid };
    const mode = CONTENT_MODES.get(operation.opcode);
    const run = (): Promise<Answer<R>> => this.requester.call(operation, request, options);
    const isLocked = mode === undefined || fid === undefined || !this.locksContent;
    const answer = isLocked ? await run() : await this.#underContentLock(fid, mode, run);
    const { xid, transno, reply } = answer;
    if (transno > 0 && operation.opcode !== Close.opcode) {
      const known = operation as unknown as Operation<unknown, unknown>;
      this.answered.push({ operation: known, request, bulk: options?.bulk, xid, transno, reply });
    }
    return answer;
  }

  /** READ and WRITE need a lock on the content: taken for the one call, and given back in the order of the connection. */
  async #underContentLock<T>(fid: Fid, mode: 'PR' | 'PW', run: () => Promise<T>): Promise<T> {
    const { handle } = await this.call(Enqueue, { type: 'data', fid, mode });
    try {
      return await run();
    } finally {
      await this.call(Cancel, { handles: [handle] });
    }
  }

  /** The connection breaks. */
  async lose(): Promise<void> {
    this.link?.destroy();
    this.requester.detach();
    // The server sees it in a later turn.
    await this.time.turn();
  }

  newFid(): Fid {
    return this.#nextFid++ as Fid;
  }
  newFh(): Fh {
    return this.#nextFh++ as Fh;
  }

  create(
    name: string | undefined,
    options: Partial<Parameters<typeof Create.request.toArray>[0]> = {},
  ): Promise<ReplyOf<typeof Create>> {
    return this.call(Create, {
      parent: ROOT_FID,
      name: name as Name | undefined,
      fid: this.newFid(),
      mode: 0o100644,
      umask: 0,
      uid: 1000,
      gid: 1000,
      exclusive: true,
      want: 0,
      ...options,
    });
  }

  mkdir(name: string, parent: Fid = ROOT_FID): Promise<ReplyOf<typeof Create>> {
    return this.create(name, { parent, mode: 0o040755 });
  }

  lookup(name: string, parent: Fid = ROOT_FID, want = 0): Promise<ReplyOf<typeof Lookup>> {
    return this.call(Lookup, { parent, name: name as Name, want });
  }

  /** Errno name that the operation fails with. */
  async errno<Q, R>(operation: Operation<Q, R>, request: Q): Promise<string> {
    try {
      await this.call(operation, request);
    } catch (error) {
      return (error as { code?: string }).code ?? String(error);
    }
    return 'no error';
  }

  #events(link: FrameLink): { frame(frame: Frame): void; closed(): void } {
    return {
      frame: (frame) => {
        if (this.deaf) return;
        const replayed = this.#replays.get(frame.header.xid);
        if (replayed !== undefined && frame.header.kind === KIND.reply) {
          this.#replays.delete(frame.header.xid);
          replayed(frame.header.errno);
        } else if (frame.header.kind === KIND.reply) this.requester.reply(frame);
        else this.#service.dispatch(undefined, link, frame, { lastCommitted: () => 0 as never });
      },
      closed: () => {
        if (this.link === link) {
          this.closed = true;
          this.requester.detach();
        }
      },
    };
  }
}

export function grantOf(
  locks: readonly GrantMessage[],
  type: GrantMessage['type'],
  fid: Fid,
): GrantMessage | undefined {
  return locks.find((lock) => lock.type === type && lock.fid === fid);
}

export function nameOf(text: string): Name {
  return text as Name;
}
