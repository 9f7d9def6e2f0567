/**
 * The wait of a mount for its target. It ends when the client may use the target, when no server has answered within the
 * limit, when a server refuses for good, or when the caller gives up.
 *
 * A server that has answered is being upgraded, or recovers: the mount waits for it without limit.
 */

import { FsError } from '../../base/errno.js';
import { Deferred, onAbort } from '../../base/wait.js';
import { formatAddress, type Timer } from '../../runtime/ports.js';
import type { ClientContext } from '../cache/context.js';
import type { ImportEvents } from './import.js';

export class FirstConnect implements ImportEvents {
  readonly #context: ClientContext;
  /** Rejects with the reason when the mount is given up. */
  readonly #ready = new Deferred<void>();
  readonly ready = this.#ready.promise;
  /** What servers have said so far: the client passes each text on once. */
  readonly #told = new Set<string>();
  #unlisten = (): void => undefined;
  #limit: Timer | undefined;
  #why = 'no server answered';
  #state: 'unanswered' | 'answered' | 'over' = 'unanswered';

  constructor(context: ClientContext) {
    this.#context = context;
  }

  /** Starts the time limit. @throws the reason of options.signal if it has aborted. */
  start(): void {
    const { runtime, options } = this.#context;
    const { connectTimeoutMs, signal } = options;
    signal?.throwIfAborted();
    this.#unlisten = onAbort(signal, () => this.#giveUp(signal?.reason));
    if (connectTimeoutMs === undefined) return;
    this.#limit = runtime.timers.after(connectTimeoutMs, () => this.#late(connectTimeoutMs / 1000));
  }

  // ImportEvents.

  usable(): void {
    this.#end();
    this.#ready.resolve();
  }

  answered(waitsFor: string | undefined): void {
    if (this.#state === 'over') return;
    this.#state = 'answered';
    this.#limit?.cancel();
    if (waitsFor === undefined || this.#told.has(waitsFor)) return;
    this.#told.add(waitsFor);
    this.#context.options.onWait?.(waitsFor);
  }

  refused(error: FsError, final: boolean): void {
    if (this.#state === 'over') return;
    this.#why = `no server took the mount (${error.message})`;
    if (final) {
      this.#giveUp(error);
    } else if (this.#state === 'unanswered' && !this.#told.has(error.message)) {
      this.#told.add(error.message);
      this.#context.options.onTrouble?.(error.message);
    }
  }

  #late(seconds: number): void {
    const addresses = this.#context.options.addresses.map(formatAddress).join(', ');
    const remedy = `start the server of ${addresses}, or mount with -o retry, which goes on trying`;
    this.#giveUp(new FsError('ETIMEDOUT', `${this.#why} within ${seconds} s: ${remedy}`));
  }

  #giveUp(error: Error): void {
    this.#end();
    this.#ready.reject(error);
  }

  #end(): void {
    this.#state = 'over';
    this.#limit?.cancel();
    this.#unlisten();
  }
}
