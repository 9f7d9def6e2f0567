/**
 * startClient(): puts the parts of a client together, connects, and hands out the filesystem (api.ts).
 *
 * ClientContext owns the caches and tables. Membership owns one target with its session and its connection. The operation
 * classes have what each system call does.
 */

import type { Checked } from '../base/assert.js';
import { FsError } from '../base/errno.js';
import type { Fid } from '../base/ids.js';
import type { Runtime } from '../runtime/ports.js';
import type { ClientOptions, ClientStatus, FsClient, Predecessor } from './api.js';
import { ClientContext } from './cache/context.js';
import { registerClientMetrics } from './client_metrics.js';
import { holdingsOf } from './holdings.js';
import { DataLocks } from './io/io_lock.js';
import { Reader } from './io/readahead.js';
import { WriteBack } from './io/write_back.js';
import { depart, describeLoss } from './lifecycle/departure.js';
import { FirstConnect } from './lifecycle/first_connect.js';
import { Handover, takeOver } from './lifecycle/handover.js';
import { Membership } from './membership.js';
import { LockOperations } from './operations/app_locks.js';
import { AttrOperations } from './operations/attrs.js';
import { DataOperations } from './operations/data.js';
import { HeldInodes } from './operations/held_inodes.js';
import { LocalOpens } from './operations/local_opens.js';
import { CHANGES, LookupAhead } from './operations/lookup_ahead.js';
import { NameOperations } from './operations/names.js';
import { OpenOperations } from './operations/opens.js';
import { OwnNames } from './operations/own_names.js';
import { RemoteNamespace } from './operations/remote_namespace.js';
import { type ClientIdentity, identityAfter, newIdentity } from './session/identity.js';

/**
 * Once a server has answered, waits without limit, even if the server then goes away: that is an upgrade, or a recovery.
 * @param from this process goes on as a client that another one was.
 * @throws FsError ETIMEDOUT when no server answered within options.connectTimeoutMs; EPROTO, ENODEV when one refused;
 *   the reason of options.signal.
 */
export async function startClient(
  runtime: Runtime,
  options: ClientOptions,
  from?: Predecessor,
): Promise<FsClient> {
  const client = new Client(runtime, options, from);
  await client.connect();
  return client.filesystem();
}

class Client {
  readonly #options: ClientOptions;
  readonly #identity: ClientIdentity;
  readonly #context: ClientContext;
  readonly #writeBack: WriteBack;
  readonly #locks: DataLocks;
  readonly #data: DataOperations;
  readonly #appLocks: LockOperations;
  readonly #held: HeldInodes;
  readonly #localOpens: LocalOpens;
  /** There is one target for now. */
  readonly #member: Membership;
  readonly #first: FirstConnect;
  readonly #handover: Handover;
  #unmounting: Promise<void> | undefined;

  constructor(runtime: Runtime, options: ClientOptions, from?: Predecessor) {
    this.#options = options;
    this.#identity = from === undefined ? newIdentity(runtime.rng) : identityAfter(from);
    this.#context = new ClientContext(runtime, options);
    this.#writeBack = new WriteBack(this.#context);
    this.#locks = new DataLocks(this.#context);
    this.#data = new DataOperations(this.#context, this.#locks, new Reader(this.#context), this.#writeBack);
    this.#appLocks = new LockOperations(this.#context);
    this.#held = new HeldInodes(this.#context, this.#writeBack);
    this.#localOpens = new LocalOpens(this.#context);
    this.#first = new FirstConnect(this.#context);
    this.#member = new Membership(
      {
        context: this.#context,
        writeBack: this.#writeBack,
        data: this.#data,
        appLocks: this.#appLocks,
        held: this.#held,
        localOpens: this.#localOpens,
      },
      this.#identity,
      this.#first,
    );
    const { target, connection, drain } = this.#member;
    registerClientMetrics(runtime.metrics, this.#context, target, options, from);
    if (from?.kind === 'handed over') {
      takeOver(this.#context, target, from.state);
      this.#appLocks.takeOver(target, from.state.waiting);
      this.#held.takeOver(from.state.held);
    } else if (from?.kind === 'dead') {
      this.#context.handles.after(from.client.firstFh);
    }
    const parts = { context: this.#context, identity: this.#identity, held: this.#held };
    this.#handover = new Handover({ ...parts, target, connection, drain });
  }

  /** Connects to the one target there is for now. */
  async connect(): Promise<void> {
    this.#first.start();
    const { connection } = this.#member;
    connection.start();
    try {
      await this.#first.ready;
    } catch (error) {
      this.#writeBack.stop();
      await connection.stop();
      throw error;
    }
  }

  filesystem(): FsClient {
    const context = this.#context;
    const data = this.#data;
    const appLocks = this.#appLocks;
    const namespace = new RemoteNamespace(context, this.#held, this.#localOpens);
    const own = new OwnNames(context, this.#writeBack, this.#held);
    const changesAhead = new LookupAhead(context, namespace, CHANGES);
    const names = new NameOperations(context, namespace, own, changesAhead, this.#writeBack);
    const attrs = new AttrOperations(context, namespace, own, changesAhead, this.#locks, this.#writeBack);
    const opens = new OpenOperations(
      context,
      namespace,
      names,
      appLocks,
      this.#locks,
      this.#writeBack,
      this.#held,
      this.#localOpens,
      own,
    );
    return {
      awayMs: (fid) => context.targets.of(fid).gate.awayMs,
      lookup: names.lookup.bind(names),
      create: names.create.bind(names),
      link: names.link.bind(names),
      unlink: names.unlink.bind(names),
      rename: names.rename.bind(names),
      readdir: names.readdir.bind(names),
      getattr: attrs.getattr.bind(attrs),
      mayHaveSetId: attrs.mayHaveSetId.bind(attrs),
      setattr: attrs.setattr.bind(attrs),
      readlink: attrs.readlink.bind(attrs),
      getxattr: attrs.getxattr.bind(attrs),
      setxattr: attrs.setxattr.bind(attrs),
      listxattr: attrs.listxattr.bind(attrs),
      removexattr: attrs.removexattr.bind(attrs),
      statfs: attrs.statfs.bind(attrs),
      learnRoot: attrs.learnRoot.bind(attrs),
      open: opens.open.bind(opens),
      createAndOpen: opens.createAndOpen.bind(opens),
      flush: opens.flush.bind(opens),
      release: opens.release.bind(opens),
      forgotten: (fid) => this.#held.forgotten(fid),
      read: data.read.bind(data),
      write: data.write.bind(data),
      fsync: data.fsync.bind(data),
      fallocate: data.fallocate.bind(data),
      seek: data.seek.bind(data),
      copyRange: data.copyRange.bind(data),
      testLock: appLocks.testLock.bind(appLocks),
      setLock: appLocks.setLock.bind(appLocks),
      unlock: appLocks.unlock.bind(appLocks),
      lastKnownAttr: (fid) => context.attrs.lastKnown(fid),
      heldLocks: () => context.targets.all().flatMap((target) => [...target.locks.held()]),
      holdsDataLock: (fid: Fid) => context.targets.of(fid).locks.holds('data', fid),
      isReadOnly: () => context.targets.all().some(({ isReadOnly }) => isReadOnly),
      writeBack: () => this.#writeBack.startAll(),
      handover: this.#handover,
      unmount: () => {
        this.#unmounting ??= this.#unmount();
        return this.#unmounting;
      },
      status: () => this.#status(),
      holdings: (what, limit) => holdingsOf(context, what, limit),
      checked: () => this.#checked(),
    };
  }

  /** Writes every byte to the servers, gives every lock back, says goodbye. */
  async #unmount(): Promise<void> {
    const patienceMs = this.#options.leavePatienceMs;
    const departing = { context: this.#context, writeBack: this.#writeBack, patienceMs };
    const { target, connection, drain } = this.#member;
    const loss = await depart({ ...departing, target, connection, drain });
    this.#writeBack.stop();
    if (loss !== undefined) throw new FsError('EIO', `unmounted, but ${describeLoss(loss)}`);
  }

  /** The context checks all its tables and the targets, and what must agree across them. */
  #checked(): readonly Checked[] {
    return [this.#context, this.#writeBack, this.#localOpens];
  }

  #status(): ClientStatus {
    const context = this.#context;
    return {
      uuid: this.#identity.uuid,
      softwareVersion: this.#options.softwareVersion,
      targets: [this.#member].map(({ target, connection }) => ({
        index: target.index,
        label: target.label,
        address: connection.address,
        importState: connection.state,
        gate: target.gate.state,
        instance: target.instance,
        serverVersion: target.serverVersion,
        pauses: target.gate.pauses(),
        parked: target.gate.parked,
        rpcsInFlight:
          target.outgoing.inFlight('operation') +
          target.outgoing.inFlight('data') +
          target.outgoing.inFlight('closing'),
        dirtyBytes: context.dirtyBytes(target),
        locks: target.locks.size,
        opens: context.handles.ofTarget(target.index).length,
        appLocks: target.appLocks.size,
        changes: target.changes.size,
        replayList: { operations: target.replays.size, bulkBytes: target.replays.bulkBytes },
        lostAppLocks: target.lostAppLocks,
        evictions: [...target.evictions],
        history: [...connection.history],
      })),
      cache: {
        limitBytes: context.pages.limitBytes,
        pageBytes: context.pages.bytes,
        files: context.files.size,
        attrs: context.attrs.size,
        names: context.names.size,
      },
    };
  }
}
