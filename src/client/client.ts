/**
 * startClient(): puts the parts of a client together, connects, and hands out the filesystem (api.ts).
 *
 * What belongs to whom: ClientContext the caches and tables, TargetSession the calls and locks of one target, Import its connection,
 * the operation classes what each system call does. This file wires them and answers what the server asks.
 */

import { FsError } from '../base/errno.js';
import type { ClientUuid, Fid, Transno } from '../base/ids.js';
import { onAbort } from '../base/wait.js';
import type { Frame, Link } from '../rpc/api.js';
import { Service } from '../rpc/service.js';
import type { Runtime, Timer } from '../runtime/ports.js';
import { Bast, Cast, Glimpse, Gone, Nameless } from '../wire/lock.js';
import { Evicted } from '../wire/session.js';
import type { ClientOptions, ClientStatus, FsClient } from './api.js';
import { ClientContext } from './cache/context.js';
import { DataLocks } from './io/io_lock.js';
import { releaseLock } from './io/lock_release.js';
import { Reader } from './io/readahead.js';
import { WriteBack } from './io/write_back.js';
import { depart, describeLoss } from './lifecycle/departure.js';
import { Drain } from './lifecycle/drain.js';
import { Import, type ImportEvents } from './lifecycle/import.js';
import { LockOperations } from './operations/app_locks.js';
import { AttrOperations } from './operations/attrs.js';
import { DataOperations } from './operations/data.js';
import { HeldInodes } from './operations/held_inodes.js';
import { NameOperations } from './operations/names.js';
import { OpenOperations } from './operations/opens.js';
import { TargetSession } from './session/target_session.js';

/** One target with what drives it. */
interface Member {
  readonly target: TargetSession;
  readonly connection: Import;
  readonly drain: Drain;
}

const NO_TRANSNO = 0 as Transno;

/**
 * Waits without limit once a server has answered, even if it goes away then: that is an upgrade, or a recovery.
 * @throws FsError ETIMEDOUT when no server answered within options.connectTimeoutMs; EPROTO, ENODEV when one refused;
 *   the reason of options.signal.
 */
export async function startClient(runtime: Runtime, options: ClientOptions): Promise<FsClient> {
  const client = new Client(runtime, options);
  await client.connect();
  return client.filesystem();
}

class Client {
  readonly #runtime: Runtime;
  readonly #options: ClientOptions;
  readonly #uuid: ClientUuid;
  readonly #context: ClientContext;
  readonly #writeBack: WriteBack;
  readonly #locks: DataLocks;
  readonly #data: DataOperations;
  readonly #appLocks: LockOperations;
  readonly #held: HeldInodes;
  readonly #members: Member[] = [];
  readonly #service = new Service<Member>();
  #unmounting: Promise<void> | undefined;

  constructor(runtime: Runtime, options: ClientOptions) {
    this.#runtime = runtime;
    this.#options = options;
    this.#uuid = runtime.rng.uuid() as ClientUuid;
    this.#context = new ClientContext(runtime, options);
    this.#writeBack = new WriteBack(this.#context);
    this.#locks = new DataLocks(this.#context);
    this.#data = new DataOperations(this.#context, this.#locks, new Reader(this.#context), this.#writeBack);
    this.#appLocks = new LockOperations(this.#context);
    this.#held = new HeldInodes(this.#context, this.#writeBack);
    this.#answerServer();
  }

  /** Connects to the one target there is for now. */
  connect(): Promise<void> {
    return new Promise((resolve, reject) => {
      const { connectTimeoutMs, signal } = this.#options;
      if (signal?.aborted) {
        reject(signal.reason);
        return;
      }
      let timer: Timer | undefined;
      let why = 'no server answered';
      let hasAnswered = false;
      const told = new Set<string>();
      const give = (error: Error): void => {
        timer?.cancel();
        unlisten();
        this.#writeBack.stop();
        void member.connection.stop().then(() => reject(error));
      };
      const unlisten = onAbort(signal, () => give(signal?.reason));
      if (connectTimeoutMs !== undefined) {
        timer = this.#runtime.timers.after(connectTimeoutMs, () => {
          const seconds = connectTimeoutMs / 1000;
          give(new FsError('ETIMEDOUT', `${why} within ${seconds} s (${this.#addresses()})`));
        });
      }
      let isReady = false;
      const member = this.#addMember({
        ready: () => {
          isReady = true;
          timer?.cancel();
          unlisten();
          resolve();
        },
        answered: (reason) => {
          if (isReady || hasAnswered) return;
          // There is a filesystem, being upgraded or recovering: its clients wait for it as long as it takes.
          hasAnswered = true;
          timer?.cancel();
          this.#options.onState?.(`waits for the server: ${reason}`);
        },
        refused: (error, final) => {
          if (isReady) return;
          why = `no server took the mount (${error.message})`;
          if (final) give(error);
          else if (!hasAnswered && !told.has(error.message)) {
            told.add(error.message);
            this.#options.onTrouble?.(error.message);
          }
        },
      });
      member.connection.start();
    });
  }

  filesystem(): FsClient {
    const context = this.#context;
    const data = this.#data;
    const appLocks = this.#appLocks;
    const names = new NameOperations(context, this.#held);
    const attrs = new AttrOperations(context, this.#locks, this.#writeBack);
    const opens = new OpenOperations(context, names, appLocks, this.#locks, this.#writeBack, this.#held);
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
      writeBack: () => this.#writeBack.startAll(),
      unmount: () => {
        this.#unmounting ??= this.#unmount();
        return this.#unmounting;
      },
      status: () => this.#status(),
    };
  }

  #addresses(): string {
    return this.#options.addresses.map(({ host, port }) => `${host}:${port}`).join(', ');
  }

  #addMember(events: Omit<ImportEvents, 'incoming'>): Member {
    const context = this.#context;
    const target = new TargetSession(
      this.#runtime,
      context.kept,
      {
        release: (lock) => releaseLock(context, this.#writeBack, target, lock),
        gone: (type, fid) => {
          const file = type === 'data' ? context.files.get(fid) : undefined;
          if (file !== undefined) context.forgetFileIfUnused(target, file);
        },
      },
      this.#options.maxLocks,
    );
    const connection = new Import(context, target, this.#writeBack, this.#uuid, {
      ...events,
      incoming: (link: Link, frame: Frame) =>
        this.#service.dispatch(member, link, frame, { lastCommitted: () => NO_TRANSNO }),
    });
    const drain = new Drain(context, target, this.#writeBack, () => connection.drained());
    const member: Member = { target, connection, drain };
    context.targets.add(target);
    this.#members.push(member);
    return member;
  }

  /** BAST, CAST, GLIMPSE, NAMELESS, GONE and EVICTED, each in the order of the frames. */
  #answerServer(): void {
    const nothing = { reply: {} };
    this.#service.on(Bast, ({ target, connection, drain }, { handle, type }) => {
      if (type === 'active') {
        connection.sawActive(handle);
        drain.start();
      } else {
        target.locks.called(handle);
      }
      return nothing;
    });
    this.#service.on(Cast, ({ target }, { handle, errno }) => {
      this.#appLocks.cast(target, handle, errno);
      return nothing;
    });
    this.#service.on(Glimpse, ({ target }, { fid }) => {
      const seen = this.#data.glimpse(target, fid);
      if (seen === undefined) throw new FsError('ENOENT', 'the lock was given back');
      return { reply: seen };
    });
    this.#service.on(Nameless, async (_member, { fids }) => {
      return { reply: { held: await this.#held.nameless(fids) } };
    });
    this.#service.on(Gone, ({ target }, { fids }) => {
      for (const fid of fids) this.#held.gone(target, fid);
      return nothing;
    });
    this.#service.on(Evicted, ({ connection }, { reason }) => {
      connection.evicted(reason);
      return nothing;
    });
  }

  /** Every byte to the servers, every lock back, goodbye. */
  async #unmount(): Promise<void> {
    const patienceMs = this.#options.leavePatienceMs;
    const departing = { context: this.#context, writeBack: this.#writeBack, patienceMs };
    const losses = await Promise.all(this.#members.map((member) => depart({ ...departing, ...member })));
    this.#writeBack.stop();
    const lost = losses.filter((loss) => loss !== undefined).map(describeLoss);
    if (lost.length > 0) throw new FsError('EIO', `unmounted, but ${lost.join('; ')}`);
  }

  #status(): ClientStatus {
    const context = this.#context;
    return {
      uuid: this.#uuid,
      softwareVersion: this.#options.softwareVersion,
      targets: this.#members.map(({ target, connection }) => ({
        index: target.index,
        label: target.label,
        address: connection.address,
        importState: connection.state,
        gate: target.gate.state,
        instance: target.instance,
        serverVersion: target.serverVersion,
        parked: target.gate.parked,
        rpcsInFlight: target.inFlight('operation') + target.inFlight('data') + target.inFlight('closing'),
        dirtyBytes: context.dirtyBytes(target),
        locks: target.locks.size,
        opens: context.handles.ofTarget(target.index).length,
        appLocks: target.appLocks.size,
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
