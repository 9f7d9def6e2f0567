/**
 * The import of one target: owns the connection, drives the state machine (import_state.ts) and applies its effects.
 *
 * Events are handled one at a time; an effect that causes an event queues it. Frames of a connection that was replaced
 * are dropped.
 */

import { FsError } from '../../base/errno.js';
import { logger } from '../../base/log.js';
import type { Frame, Link } from '../../rpc/api.js';
import { FrameLink } from '../../rpc/link.js';
import { type Credentials, formatAddress, type Timer } from '../../runtime/ports.js';
import { KIND, PROTOCOL_MAX, PROTOCOL_MIN } from '../../wire/header.js';
import { Enqueue } from '../../wire/lock.js';
import { tooOld } from '../../wire/negotiate.js';
import {
  type ConnectReply,
  type ConnectRequest,
  Disconnect,
  FEATURE,
  FEATURES_ALL,
  Ping,
} from '../../wire/session.js';
import type { ClientContext } from '../cache/context.js';
import type { WriteBack } from '../io/write_back.js';
import { Attempt } from '../session/attempt.js';
import type { ClientIdentity } from '../session/identity.js';
import {
  type ImportEffect,
  type ImportEvent,
  type ImportState,
  INITIAL,
  patienceMs,
  step,
  TAKEN_OVER,
} from '../session/import_state.js';
import type { TargetSession } from '../session/target_session.js';
import { dropEverything } from './eviction.js';
import * as recovery from './replay.js';

const log = logger('client:import');

const HISTORY_MAX = 16;
/** If a mount waits longer than this for the server, the client tells the user. */
const SAID_AFTER_MS = 5000;
/** A client that has state on the server waits this long for whoever refuses it to think better of it. */
const REFUSED_MS = 10_000;

/** Handles what the server asks. */
export interface ImportOwner {
  /** Requests and notices of the server. */
  incoming(link: Link, frame: Frame): void;
}

/** Hears how the connection comes about, for a caller that waits for the target. */
export interface ImportEvents {
  /** The target may be used for the first time. */
  usable(): void;
  /** A server has answered. @param waitsFor what it says that the client has to wait for, if it does not take the client yet. */
  answered(waitsFor: string | undefined): void;
  /** A server refused, or the client could not reach one. @param final trying again will not help. */
  refused(error: FsError, final: boolean): void;
}

export class Import {
  readonly #context: ClientContext;
  readonly #target: TargetSession;
  readonly #writeBack: WriteBack;
  readonly #identity: ClientIdentity;
  readonly #events: ImportEvents;
  readonly #owner: ImportOwner;
  #state: ImportState = INITIAL;
  readonly #history: { state: string; atMs: number }[] = [];
  readonly #queue: ImportEvent[] = [];
  #handling = false;
  /** The server instance with which this client has an export; undefined: none. */
  #instance: number | undefined;
  #connCount: number;
  #addressIndex = 0;
  #attempt: Attempt | undefined;
  #connecting: AbortController | undefined;
  #retry: Timer | undefined;
  #wasReady = false;
  /** Since when servers refuse this mount; undefined: the last one that answered did not. */
  #refusedSinceMs: number | undefined;
  /** When the target became unusable, and the timer that tells the user if this lasts. */
  #away: { readonly sinceMs: number; readonly timer: Timer } | undefined;
  #goodbye: Promise<void> = Promise.resolve();

  constructor(
    context: ClientContext,
    target: TargetSession,
    writeBack: WriteBack,
    identity: ClientIdentity,
    events: ImportEvents,
    owner: ImportOwner,
  ) {
    this.#context = context;
    this.#target = target;
    this.#writeBack = writeBack;
    this.#identity = identity;
    this.#connCount = identity.connCount;
    this.#instance = identity.instance;
    if (identity.instance !== undefined) this.#state = TAKEN_OVER;
    this.#events = events;
    this.#owner = owner;
  }

  get state(): ImportState['name'] {
    return this.#state.name;
  }

  /** Newest last, 16 at most. */
  get history(): readonly { readonly state: string; readonly atMs: number }[] {
    return this.#history;
  }

  /** Address of the server that the client uses or tries. */
  get address(): string {
    const { addresses } = this.#context.options;
    const address = addresses[this.#addressIndex % addresses.length];
    return address === undefined ? '' : formatAddress(address);
  }

  start(): void {
    this.dispatch({ type: 'start' });
  }

  drained(): void {
    this.#noteAway();
    this.dispatch({ type: 'drained' });
  }

  /** The number of the last connection. The next one has a higher one. */
  get connCount(): number {
    return this.#connCount;
  }

  /** Hangs up without a goodbye: another process goes on as this client. @throws FsError EAGAIN unless the import is FULL. */
  suspend(): void {
    if (this.#state.name !== 'FULL')
      throw new FsError('EAGAIN', 'the server has gone away: try again when it is back');
    this.dispatch({ type: 'suspend' });
  }

  /** No process has gone on as this client, or it has ended. @param connections that it may have made, at most. */
  takeBack(connections: number): void {
    this.#connCount += connections;
    this.dispatch({ type: 'retryDue', epoch: this.#state.epoch });
  }

  evicted(reason: string): void {
    this.dispatch({ type: 'evictedNotice', epoch: this.#state.epoch, reason });
  }

  /** Says goodbye if there is a connection, ends it, and never connects again. */
  async stop(): Promise<void> {
    this.dispatch({ type: 'stop' });
    await this.#goodbye;
  }

  dispatch(event: ImportEvent): void {
    this.#queue.push(event);
    if (this.#handling) return;
    this.#handling = true;
    try {
      for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) this.#handle(next);
    } finally {
      this.#handling = false;
    }
  }

  #handle(event: ImportEvent): void {
    const { state, effects } = step(this.#state, event);
    if (this.#state.name === 'FULL' && state.name === 'DISCON' && event.type !== 'suspend')
      this.#noteLost(event);
    if (state.name === 'CLOSED') this.#away?.timer.cancel();
    if (state.name !== this.#state.name) {
      log('%s -> %s (%s)', this.#state.name, state.name, event.type);
      this.#history.push({ state: state.name, atMs: this.#context.runtime.clock.nowMs() });
      if (this.#history.length > HISTORY_MAX) this.#history.shift();
      this.#context.options.onState?.(`${this.address}: ${state.name}`);
    }
    this.#state = state;
    for (const effect of effects) this.#apply(effect);
  }

  #noteLost(event: ImportEvent): void {
    // The client gave the active lock back for a shutdown, and has told the user.
    if (this.#away !== undefined) return;
    const silent = event.type === 'connectionLost' && event.silent === true;
    const how = silent ? ': it does not answer' : '';
    this.#context.options.onState?.(`connection to ${this.address} lost${how}`, 'connection-lost');
    this.#noteAway();
  }

  #noteAway(): void {
    if (!this.#wasReady || this.#away !== undefined) return;
    const { clock, timers } = this.#context.runtime;
    const stillWaiting = (): void => {
      const waits = `still waiting for ${this.address} after ${SAID_AFTER_MS / 1000} s`;
      this.#context.options.onState?.(`${waits}; ${this.#target.gate.parked} calls wait`, 'still-waiting');
    };
    this.#away = { sinceMs: clock.nowMs(), timer: timers.after(SAID_AFTER_MS, stillWaiting, true) };
  }

  #noteBack(): void {
    const away = this.#away;
    if (away === undefined) return;
    this.#away = undefined;
    away.timer.cancel();
    const seconds = ((this.#context.runtime.clock.nowMs() - away.sinceMs) / 1000).toFixed(1);
    this.#context.options.onState?.(`${this.address} is back after ${seconds} s`, 'back');
  }

  #apply(effect: ImportEffect): void {
    const context = this.#context;
    const target = this.#target;
    switch (effect.do) {
      case 'connect':
        if (effect.nextAddress) this.#addressIndex += 1;
        this.#connect(effect.epoch, effect.attempt);
        return;
      case 'retryAfter':
        this.#retry?.cancel();
        this.#retry = context.runtime.timers.after(effect.ms, () =>
          this.dispatch({ type: 'retryDue', epoch: effect.epoch }),
        );
        return;
      case 'closeGate':
        target.gate.setConnected(false);
        return;
      case 'openGate':
        this.#openGate();
        return;
      case 'adoptNew':
        this.#adopt(false);
        return;
      case 'resume':
        this.#resume();
        return;
      case 'adoptRecover':
        this.#adopt(true);
        return;
      case 'replay':
        this.#recover(effect.epoch, 'replayed', recovery.replay(target));
        return;
      case 'replayOpens':
        this.#recover(effect.epoch, 'opensReplayed', recovery.replayOpens(context, target));
        return;
      case 'replayLocks':
        this.#recover(effect.epoch, 'locksReplayed', recovery.replayLocks(context, target, this.#writeBack));
        return;
      case 'sayRecovered':
        this.#recover(effect.epoch, 'recovered', recovery.sayRecovered(target));
        return;
      case 'enqueueActive':
        this.#recover(effect.epoch, 'activeGranted', this.#enqueueActive());
        return;
      case 'dropEverything':
        dropEverything(context, target, this.#writeBack, effect.reason);
        this.#instance = undefined;
        return;
      case 'hangUp':
        this.#hangUp(new FsError('ECANCELED', 'given up'));
        return;
      case 'reconnect':
        this.dispatch({ type: 'dropped' });
        return;
      case 'disconnect':
        this.#goodbye = this.#disconnect();
        return;
      default:
        effect satisfies never;
    }
  }

  #resume(): void {
    const attempt = this.#attempt;
    if (attempt?.reply === undefined) return;
    // A process that has taken the client over may be another version: it can do what its own CONNECT has agreed on.
    this.#target.adopt(attempt.reply);
    this.#target.requester.attach(attempt.link, { resend: true });
  }

  #adopt(recovering: boolean): void {
    const attempt = this.#attempt;
    if (attempt?.reply === undefined) return;
    const { reply } = attempt;
    // If the client already recovers with this instance, recovery begins again, and what waits for its end is still valid.
    const again = recovering && reply.instance === this.#target.instance;
    const replays = (reply.features & FEATURE.replay) !== 0;
    if (recovering && !again) recovery.newInstance(this.#context, this.#target, replays);
    // The server promises space anew at each recovery.
    if (recovering) this.#target.grantBytes = 0;
    this.#target.adopt(reply);
    if (recovering) recovery.payAgain(this.#context, this.#target);
    // Until the recovery window has ended, this client belongs to the old instance: it would have to replay again.
    if (!recovering) this.#instance = reply.instance;
    // Calls that wait from before, and calls that come meanwhile, are sent when the gate opens.
    this.#target.requester.attach(attempt.link, { resend: false, hold: true });
  }

  #openGate(): void {
    const target = this.#target;
    if (this.#attempt !== undefined) target.requester.attach(this.#attempt.link, { resend: true });
    // The active lock was granted again after a drain: the shutdown was cancelled, or another instance serves.
    if (!target.gate.isDraining) target.gate.setDrain('no');
    target.gate.setConnected(true);
    this.#noteBack();
    target.outgoing.sendEnds();
    this.#context.options.onUsable?.();
    if (this.#wasReady) return;
    this.#wasReady = true;
    this.#events.usable();
  }

  /** One step of recovery: its end is an event of this epoch, its failure ends the connection. */
  #recover(
    epoch: number,
    done: 'replayed' | 'opensReplayed' | 'locksReplayed' | 'recovered' | 'activeGranted',
    work: Promise<void>,
  ): void {
    work.then(
      () => {
        // If the connection broke in this very moment, recovery begins again, and the server must hear that it does.
        const { epoch: now, name } = this.#state;
        if (done === 'recovered' && now === epoch && name === 'WAIT_RECOVERED')
          this.#instance = this.#target.instance;
        this.dispatch({ type: done, epoch });
      },
      (error: unknown) => {
        if (this.#state.epoch !== epoch) return;
        if (!(error instanceof FsError && error.code === 'ENOTCONN')) log('recovery: %O', error);
        this.#attempt?.link.destroy(error instanceof Error ? error : undefined);
      },
    );
  }

  async #enqueueActive(): Promise<void> {
    const { activeHandles } = this.#target;
    if (activeHandles.size > 0) return;
    await this.#target.call(
      'session',
      Enqueue,
      { type: 'active', mode: 'PR' },
      { connectionOnly: true, apply: ({ reply }) => void activeHandles.add(reply.handle) },
    );
  }

  #connect(epoch: number, tried: number): void {
    const { transport } = this.#context.runtime;
    const { addresses } = this.#context.options;
    const address = addresses[this.#addressIndex % addresses.length];
    if (address === undefined) throw new FsError('EINVAL', 'no server address');
    this.#connCount += 1;
    const connCount = this.#connCount;
    const abort = new AbortController();
    this.#connecting = abort;
    let credentials: Credentials | undefined;
    try {
      credentials = this.#context.options.credentials?.();
    } catch (thrown) {
      this.#refused(thrown instanceof FsError ? thrown : new FsError('EIO', String(thrown)), true);
      this.dispatch({ type: 'connectFailed', epoch });
      return;
    }
    const patience = patienceMs(tried, addresses.length);
    transport
      .connect(
        address,
        (connection) =>
          new FrameLink(
            connection,
            { connCount, outputLimitBytes: Number.POSITIVE_INFINITY, slabs: this.#context.slabs },
            (link) => this.#opened(link, epoch),
          ),
        { timeoutMs: patience.connect, signal: abort.signal, credentials },
      )
      .then(
        () => this.#sayConnect(epoch, patience.answer),
        (error: unknown) => {
          log('%s: %s', this.address, error instanceof Error ? error.message : error);
          if (error instanceof FsError && error.code !== 'ECANCELED') this.#unreachable(error);
          this.dispatch({ type: 'connectFailed', epoch });
        },
      );
  }

  #opened(link: FrameLink, epoch: number) {
    const attempt = new Attempt(this.#context.runtime, link);
    if (this.#state.epoch === epoch) this.#attempt = attempt;
    return {
      frame: (frame: Frame): void => {
        if (this.#attempt === attempt) this.#frame(attempt, frame);
      },
      closed: (error?: Error): void => {
        log('connection %d to %s ended: %s', link.connCount, link.peer, error?.message ?? 'in order');
        attempt.ended();
        if (attempt.reply === undefined && this.#attempt === attempt) this.#unanswered(error);
        if (this.#attempt === attempt) this.#lost();
        this.dispatch({ type: 'connectionLost', epoch, silent: attempt.isSilent });
      },
    };
  }

  /** A host name that does not exist will not exist in a moment. After any other failure, a server may be starting. */
  #unreachable(error: FsError): void {
    const isUnknown = error.code === 'ENXIO' && this.#context.options.addresses.length === 1;
    this.#refused(error, isUnknown || error.code === 'EACCES');
  }

  /**
   * @param final trying again will not help. If a server says of a mount that it may not connect (its key was removed, say), the
   *   calls that wait for the server must not wait for ever. The client goes on asking: somebody may give it its access back.
   */
  #refused(error: FsError, final: boolean): void {
    this.#events.refused(error, final);
    if (!this.#wasReady || error.code !== 'EACCES') return;
    const nowMs = this.#context.runtime.clock.nowMs();
    if (this.#refusedSinceMs === undefined) {
      this.#refusedSinceMs = nowMs;
      const text = `${this.address} refuses this mount: ${error.message}`;
      this.#context.options.onState?.(text, 'refused');
    }
    if (this.#instance === undefined) {
      this.#target.gate.refuse(new FsError('EACCES', error.message));
    } else if (nowMs - this.#refusedSinceMs >= REFUSED_MS) {
      // What this client had there is for nobody else, and nothing of it can be saved.
      this.dispatch({
        type: 'evictedNotice',
        epoch: this.#state.epoch,
        reason: `it may not connect any more: ${error.message}`,
      });
    }
  }

  /** The connection ended before CONNECT was answered. */
  #unanswered(error: Error | undefined): void {
    const isNoServer = error instanceof FsError && error.code === 'EPROTO';
    const what = isNoServer ? 'is no Holdfast server' : 'closed the connection before it answered';
    this.#events.refused(new FsError('EPROTO', `what listens at ${this.address} ${what}`), isNoServer);
  }

  #lost(): void {
    this.#attempt?.ended();
    this.#attempt = undefined;
    this.#target.gate.setConnected(false);
    this.#target.requester.detach();
  }

  #hangUp(reason: FsError): void {
    const attempt = this.#attempt;
    if (attempt === undefined) return;
    this.#lost();
    attempt.link.destroy(reason);
  }

  #frame(attempt: Attempt, frame: Frame): void {
    if (frame.header.kind !== KIND.reply) this.#owner.incoming(attempt.link, frame);
    else if (attempt.reply === undefined) attempt.answer(frame);
    else this.#target.requester.reply(frame);
  }

  #sayConnect(epoch: number, patienceMs: number): void {
    const attempt = this.#attempt;
    if (attempt === undefined || this.#state.epoch !== epoch) return;
    const answered = (reply: ConnectReply): void => this.#answered(attempt, epoch, reply);
    attempt.connect(this.#connectRequest(), patienceMs, answered).catch((error: unknown) => {
      const refusal =
        error instanceof FsError ? error : new FsError('EIO', 'CONNECT failed', { cause: error });
      if (refusal.code !== 'ENOTCONN') {
        log('%s refused: %s', this.address, refusal.message);
        // Another protocol, another target, or a server that takes only root, or only a client with the secret of this UUID.
        const final = refusal.code === 'EPROTO' || refusal.code === 'ENODEV' || refusal.code === 'EACCES';
        this.#refused(refusal, final);
      }
      this.dispatch({ type: 'connectFailed', epoch });
    });
  }

  #connectRequest(): ConnectRequest {
    const context = this.#context;
    const target = this.#target;
    const { name, softwareVersion } = context.options;
    const known = this.#instance !== undefined;
    return {
      uuid: this.#identity.uuid,
      name,
      protocolMin: PROTOCOL_MIN,
      protocolMax: PROTOCOL_MAX,
      features: FEATURES_ALL,
      softwareVersion,
      connCount: this.#connCount,
      previousInstance: this.#instance,
      targetUuid: target.targetUuid,
      role: 'client',
      lastTransno: known ? target.replays.lastExecuted : undefined,
      hasMoreThanOpens: recovery.hasMoreThanOpens(context, target),
      grantsInUse: known ? recovery.grantsInUse(context, target) : undefined,
      secret: this.#identity.secret,
      access: context.options.access,
      label: context.options.label,
      metaGrantInUse: known ? target.changes.usedBytes : undefined,
    };
  }

  #answered(attempt: Attempt, epoch: number, reply: ConnectReply): void {
    if (this.#attempt !== attempt) return;
    const { lowestPeer, softwareVersion } = this.#context.options;
    const server = { is: 'server', softwareVersion: reply.softwareVersion } as const;
    const old = tooOld(lowestPeer, server, softwareVersion);
    if (old !== undefined) {
      log('%s: %s', this.address, old);
      this.#refused(new FsError('EPROTO', old), true);
      this.dispatch({ type: 'connectFailed', epoch });
      attempt.link.destroy(new FsError('EPROTO', old));
      return;
    }
    this.#refusedSinceMs = undefined;
    this.#target.gate.refuse(undefined);
    this.#events.answered(reply.outcome === 'wait' ? reply.reason : undefined);
    if (reply.outcome !== 'wait' && reply.outcome !== 'evicted') {
      this.#target.restrictedTo(reply.restricted);
      attempt.watch(reply.pingIntervalMs, () => {
        this.#target.call('session', Ping, {}, { connectionOnly: true }).catch(() => undefined);
      });
    }
    this.dispatch({ type: 'connected', epoch, outcome: reply.outcome, reason: reply.reason ?? '' });
  }

  async #disconnect(): Promise<void> {
    this.#retry?.cancel();
    this.#connecting?.abort(new FsError('ECANCELED', 'unmounted'));
    const attempt = this.#attempt;
    if (attempt !== undefined && this.#target.requester.attached) {
      try {
        await this.#target.call('session', Disconnect, {}, { connectionOnly: true });
      } catch (error) {
        // The server notices by itself that this client is gone, and evicts what is left of it.
        log('goodbye: %s', error);
      }
    }
    attempt?.ended();
    attempt?.link.end();
    this.#target.requester.failAll(new FsError('EIO', 'unmounted'));
  }
}
