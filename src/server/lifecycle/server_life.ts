/**
 * The life of a server, put into effect: what lifecycle/state.ts decides is done here, and what comes of it is said to the state
 * machine as the next event.
 *
 * Invariants:
 * - The state changes by events alone; nothing here looks at the state to decide what comes next.
 * - `target` and `recovery` are those of the instance that was begun. They stay after its end, for STATUS.
 */

import { assert, assertNever } from '../../base/assert.js';
import { FsError } from '../../base/errno.js';
import type { ClientUuid } from '../../base/ids.js';
import { logger } from '../../base/log.js';
import type { NoticeKind } from '../../base/notices.js';
import { Deferred } from '../../base/wait.js';
import type { LimitTime, Runtime } from '../../runtime/ports.js';
import type { TargetStore } from '../../storage/api.js';
import type { ServerStateName } from '../../wire/admin.js';
import type { EvictedClient } from '../export/exports.js';
import { endRequests } from '../target/eviction.js';
import { lockServerOf } from '../target/lock_server.js';
import { sweepOrphans } from '../target/orphans.js';
import { ServedTarget, type ServedTargetOptions, type TargetEvents } from '../target/served_target.js';
import { decideStart } from '../target/version_gate.js';
import { Drain } from './drain.js';
import { errorOf, Lifecycle } from './lifecycle.js';
import type { RecoveryWindow } from './recovery_window.js';
import { beginInstance, type Found, type MayStart, takePrevious } from './start.js';
import { startFailed } from './start_failed.js';
import {
  type End,
  isCancellable,
  isShuttingDown,
  type LifecycleEffect,
  type LifecycleEvent,
  type ShutdownEnd,
  shownAs,
} from './state.js';

const log = logger('server');

export interface LifeSettings extends ServedTargetOptions {
  readonly forceStart: boolean;
  readonly drainTimeoutMs: number;
  readonly recoverySoftMs: number;
  readonly recoveryHardMs: number;
}

/** The server around it: its port and its connections. */
export interface LifeHost {
  readonly runtime: Runtime;
  readonly settings: LifeSettings;
  readonly time: LimitTime;
  /** Resolves when nobody can connect any more. */
  closePort(): Promise<void>;
  /** Requests that were held are executed. */
  serveHeld(): void;
  /** There is a target: CONNECTs that wait for one are answered. */
  hasTarget(): void;
  tellShutdownEnds(evicted: readonly EvictedClient[], count: number): void;
  /** Ends the connections in order, and everything that runs on the clock of the server. */
  endConnections(): void;
  /** For people. */
  say(text: string, kind?: NoticeKind): void;
}

/** A store that activate() was given, and that the version gate lets this server have. */
interface Activation {
  readonly store: TargetStore;
  readonly decision: MayStart;
  readonly done: Deferred<void>;
}

export class ServerLife implements TargetEvents {
  readonly #host: LifeHost;
  readonly #lifecycle = new Lifecycle((effect) => this.#apply(effect));
  readonly #closed = new Deferred<void>();
  readonly closed = this.#closed.promise;
  #activation: Activation | undefined;
  #target: ServedTarget | undefined;
  #recovery: RecoveryWindow | undefined;
  #drain: Drain | undefined;
  /** For whoever asked for the shutdown that is under way, or was the last. */
  #shutdownEnd: Deferred<ShutdownEnd> | undefined;
  #failure: Error | undefined;
  /** Why the store could not be closed. */
  #closeFailure: Error | undefined;

  constructor(host: LifeHost) {
    this.#host = host;
  }

  /** The state that STATUS and CONNECT show. */
  get shown(): ServerStateName {
    return shownAs(this.#lifecycle.state);
  }

  /** It has given its clients up, without draining them or after that. Whatever still comes from them is for the next server. */
  get isLeaving(): boolean {
    const { name } = this.#lifecycle.state;
    return name === 'stopping' || name === 'releasing' || name === 'stopped';
  }
  get isShuttingDown(): boolean {
    return isShuttingDown(this.#lifecycle.state);
  }
  get target(): ServedTarget | undefined {
    return this.#target;
  }
  get recovery(): RecoveryWindow | undefined {
    return this.#recovery;
  }
  get failure(): Error | undefined {
    return this.#failure;
  }
  get drainLeftMs(): number | undefined {
    return this.#drain?.leftMs;
  }

  async activate(store: TargetStore): Promise<void> {
    const { softwareVersion, forceStart } = this.#host.settings;
    const decision = decideStart(store.superblock, softwareVersion, forceStart);
    if (!decision.start) {
      await store.close();
      throw new FsError('EPERM', decision.message);
    }
    const { name } = this.#lifecycle.state;
    if (name !== 'standby') {
      await store.close();
      throw new FsError('ESHUTDOWN', `the server takes no target: it is ${name}`);
    }
    const activation = { store, decision, done: new Deferred<void>() };
    this.#activation = activation;
    this.#lifecycle.happens({ type: 'activateAsked' });
    return activation.done.promise;
  }

  shutdown(drainTimeoutMs: number | undefined): Promise<ShutdownEnd> {
    this.#shutdownEnd ??= new Deferred();
    const { promise } = this.#shutdownEnd;
    // Not everybody who asks waits for the end.
    promise.catch(() => undefined);
    this.#lifecycle.happens({ type: 'shutdownAsked', drainTimeoutMs });
    return promise;
  }

  cancelShutdown(): boolean {
    if (!isCancellable(this.#lifecycle.state)) return false;
    this.#lifecycle.happens({ type: 'cancelAsked' });
    return true;
  }

  async stop(): Promise<void> {
    if (this.#lifecycle.state.name === 'stopped') return this.closed;
    this.#lifecycle.happens({ type: 'stopAsked' });
    await this.closed;
    if (this.#closeFailure !== undefined) throw this.#closeFailure;
  }

  // TargetEvents.

  clientLeaves(uuid: ClientUuid): void {
    this.#recovery?.leaves(uuid);
  }

  clientGone(uuid: ClientUuid): void {
    this.#recovery?.gone(uuid);
  }

  clientEvicted(text: string): void {
    this.#host.say(text, 'evicted');
  }

  says(kind: NoticeKind, text: string): void {
    this.#host.say(text, kind);
  }

  #apply(effect: LifecycleEffect): void {
    switch (effect.do) {
      case 'announce':
        this.#host.say(this.shown);
        break;
      case 'say':
        this.#host.say(effect.text);
        break;
      case 'begin':
        void this.#begin(this.#given(this.#activation));
        break;
      case 'sweepOrphans':
        this.#sweepOrphans();
        break;
      case 'serveHeld':
        this.#host.serveHeld();
        break;
      case 'giveUpRecovery':
        this.#giveUpRecovery();
        break;
      case 'beginDrain':
        this.#beginDrain(effect.drainTimeoutMs);
        break;
      case 'limitDrain':
        this.#drain?.limit(effect.drainTimeoutMs);
        break;
      case 'stopDrain':
        this.#drain?.stop();
        break;
      case 'closePort':
        void this.#closePort();
        break;
      case 'commit':
        this.#after(this.#commit(effect.marks), { type: 'committed' });
        break;
      case 'writeMark':
        this.#after(this.#given(this.#target).store.markClean(), { type: 'marked' });
        break;
      case 'tellHowItEnded':
        this.#tellHowItEnded();
        break;
      case 'noteFailure':
        this.#failure = effect.cause;
        this.#host.say(`stops: ${effect.cause.message}`);
        break;
      case 'release':
        void this.#release();
        break;
      case 'endShutdown':
        this.#endShutdown(effect.how);
        break;
      case 'close':
        this.#closed.resolve();
        break;
      case 'ask':
        this.#lifecycle.happens(effect.event);
        break;
      default:
        assertNever(effect);
    }
  }

  /** A part that the state says is there. */
  #given<T>(part: T | undefined): T {
    assert(part !== undefined, `nothing to act on when the server is ${this.#lifecycle.state.name}`);
    return part;
  }

  #after(work: Promise<void>, event: LifecycleEvent): void {
    work.then(
      () => this.#lifecycle.happens(event),
      (thrown: unknown) => this.#failed(thrown),
    );
  }

  #failed(thrown: unknown): void {
    this.#lifecycle.happens({ type: 'failed', cause: errorOf(thrown) });
  }

  async #begin({ store, decision, done }: Activation): Promise<void> {
    const { runtime, settings } = this.#host;
    const { softwareVersion } = settings;
    const previous = store.superblock;
    try {
      this.#serve(store, decision, await beginInstance(runtime, store, decision, softwareVersion));
    } catch (thrown) {
      const failure = await startFailed(store, previous, softwareVersion, thrown);
      await this.#dropTarget(store);
      this.#lifecycle.happens({ type: 'startFailed' });
      done.reject(failure);
      return;
    }
    const clients = this.#recovery?.status().clients ?? 0;
    this.#lifecycle.happens({ type: 'begun', clients, mayReplay: !previous.clean });
    this.#host.hasTarget();
    done.resolve();
  }

  #serve(store: TargetStore, decision: MayStart, found: Found): void {
    const { runtime, time, settings } = this.#host;
    const target = new ServedTarget(runtime, time, store, settings, this, lockServerOf);
    this.#target = target;
    // Also tells the target how far FIDs were handed out before.
    target.allocateFids();
    void store.failed.then((cause) => this.#storeFailed(target, cause));
    const over = (): void => this.#lifecycle.happens({ type: 'recoveryEnded' });
    this.#recovery = takePrevious(target, decision, found, settings, over);
    // A target that cannot even say what its orphans are is not served.
    if (this.#recovery === undefined) sweepOrphans(target);
  }

  /** After a recovery. A target that cannot say what its orphans are is given up, as at a start. */
  #sweepOrphans(): void {
    try {
      sweepOrphans(this.#given(this.#target));
    } catch (thrown) {
      this.#failed(thrown);
    }
  }

  /** The target cannot commit any more: nothing may be answered as if it could. A start that failed has said so itself. */
  #storeFailed(target: ServedTarget, cause: Error): void {
    if (this.#target === target) this.#failed(cause);
  }

  /** Of a start that failed. */
  async #dropTarget(store: TargetStore): Promise<void> {
    this.#recovery?.abandon();
    this.#target?.stop();
    this.#target = undefined;
    await store.close().catch((error: unknown) => log('closing after a start that failed: %O', error));
  }

  #giveUpRecovery(): void {
    this.#recovery?.abandon();
    // They have nothing to finish here.
    this.#target?.undrained.clear();
  }

  #beginDrain(drainTimeoutMs = this.#host.settings.drainTimeoutMs): void {
    this.#drain = new Drain(this.#given(this.#target), drainTimeoutMs, {
      drained: () => this.#lifecycle.happens({ type: 'allDrained' }),
      failed: (cause) => this.#failed(cause),
      said: (text) => this.#host.say(text),
    });
  }

  async #closePort(): Promise<void> {
    try {
      await this.#host.closePort();
    } catch (error) {
      // Nobody listens at it, whatever went wrong.
      log('closing the port: %O', error);
    }
    this.#lifecycle.happens({ type: 'portClosed' });
  }

  async #commit(marks: boolean): Promise<void> {
    const { modifying, store } = this.#given(this.#target);
    await modifying.zero();
    // A server that was told to stop meanwhile has closed its store.
    if (this.#lifecycle.state.name !== 'committing') return;
    if (marks) this.#host.say('all clients are drained; commits');
    await store.sync();
  }

  #tellHowItEnded(): void {
    const { clients, count } = this.#given(this.#drain).evicted;
    this.#host.tellShutdownEnds(clients, count);
  }

  #endShutdown(how: End | 'cancelled'): void {
    const end = this.#given(this.#shutdownEnd);
    if (how === 'cancelled') this.#shutdownEnd = undefined;
    if (how === 'stopped') end.reject(new FsError('ECANCELED', 'the server was stopped'));
    else if (how === 'failed') end.reject(this.#failure ?? this.#closeFailure);
    else end.resolve(how);
  }

  /** Connections end in order, then the devices are free. */
  async #release(): Promise<void> {
    this.#recovery?.abandon();
    this.#drain?.stop();
    this.#target?.stop();
    this.#endClients();
    try {
      await this.#target?.store.close();
    } catch (thrown) {
      this.#closeFailure = errorOf(thrown);
      log('closing the store: %O', thrown);
    }
    this.#lifecycle.happens({ type: 'released', failed: this.#closeFailure !== undefined });
  }

  #endClients(): void {
    const target = this.#target;
    // Dropping a holder's application locks would grant them to who waits, and say so: a client would replay it as held.
    target?.locks.holdFlockGrants(true);
    // First of all: what happens to locks from here on is no client's business, its next server has them all.
    this.#host.endConnections();
    for (const client of target?.exports ?? []) {
      endRequests(client, 'the server stops');
      // Its BASTs have time limits, which would keep the process waiting.
      target?.locks.dropClient(client.uuid);
    }
    for (const uuid of target?.leaving.keys() ?? []) target?.locks.dropClient(uuid);
  }
}
