/**
 * What two client processes say to each other while one takes a mount over from the other (docs/TAKEOVER.md). They may be of
 * different versions, so this is frozen: a word keeps its meaning, and a process ignores fields that it does not know.
 *
 * A frame is its length (u32, little-endian, of what follows), a byte for its kind, and its content: JSON, or a MountState. The
 * words go in this order:
 *
 *     the new process                    the process in charge
 *     hello (it is warm)          ->
 *                                 <-     state, then the MountState (it has drained, and reads no more)
 *     ready (it is connected)     ->
 *                                 <-     go
 *     inCharge (it reads)         ->
 *
 * failed, or the end of the connection, at any place: the process in charge stays in charge.
 */

import type { Socket } from 'node:net';
import { FsError } from '../base/errno.js';
import { logger } from '../base/log.js';
import { Deferred } from '../base/wait.js';
import { MountState, type MountStateMessage } from '../wire/mount_state.js';
import { decode, encode } from '../wire/schema.js';

const log = logger('cli:takeover');

/** Descriptors of the new process. */
export const CHANNEL_FD = 3;
export const FUSE_FD = 4;
/** The socket of the mount's keeper, or the memory of its seed in systemd's store, if there is one. */
export const KEPT_FD = 5;

export type TakeoverWord =
  | {
      readonly word: 'hello';
      readonly pid: number;
      readonly version: string;
      readonly stateVersions: readonly number[];
      /** It keeps the seed in systemd's store true. Absent: an older version, which does not know of it. */
      readonly knowsStore?: boolean | undefined;
    }
  /** logPath: where the output of both goes, if it is a file of this mount. */
  | {
      readonly word: 'state';
      readonly stateVersion: number;
      readonly logPath?: string | undefined;
      readonly hasKeeper?: boolean | undefined;
      /** systemd keeps the mount: KEPT_FD is the memory of the seed. */
      readonly hasStore?: boolean | undefined;
      /** When calls began to wait, by monotonicMs(). */
      readonly shutSinceMs?: number | undefined;
    }
  | { readonly word: 'ready' }
  | { readonly word: 'go' }
  | { readonly word: 'inCharge' }
  | { readonly word: 'failed'; readonly why: string };

/** The kernel's CLOCK_MONOTONIC, which all processes of a host share, in milliseconds. */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

const KIND = { word: 1, state: 2 } as const;
const HEAD_BYTES = 5;
const FRAME_MAX_BYTES = 2 ** 31;

export class TakeoverChannel {
  readonly #socket: Socket;
  /** What came and nobody has asked for yet. */
  #received: Buffer[] = [];
  #receivedBytes = 0;
  #wants: { readonly bytes: number; readonly done: Deferred<Buffer> } | undefined;
  #end: FsError | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#received.push(chunk);
      this.#receivedBytes += chunk.length;
      this.#serve();
    });
    // A broken pipe says the same as its end.
    socket.on('error', (error) => log('%s', error.message));
    socket.on('close', () => this.#ended(new FsError('ENOTCONN', 'the other process has ended')));
  }

  say(word: TakeoverWord): void {
    this.#write(KIND.word, Buffer.from(JSON.stringify(word)));
  }

  sayState(state: MountStateMessage): void {
    this.#write(KIND.state, encode(MountState, state));
  }

  /** @throws FsError EPROTO if something else comes, EIO with its words if the other process gives up, ENOTCONN. */
  async hear<W extends TakeoverWord['word']>(word: W): Promise<Extract<TakeoverWord, { readonly word: W }>> {
    const text = await this.#read(KIND.word);
    const heard = JSON.parse(text.toString()) as TakeoverWord;
    if (heard.word === 'failed') throw new FsError('EIO', heard.why);
    if (heard.word !== word) throw new FsError('EPROTO', `the other process says ${heard.word}, not ${word}`);
    return heard as Extract<TakeoverWord, { readonly word: W }>;
  }

  /** @throws FsError EPROTO, ENOTCONN */
  async hearState(): Promise<MountStateMessage> {
    return decode(MountState, await this.#read(KIND.state));
  }

  /** Nothing is said any more. What was said still arrives. */
  close(): void {
    this.#socket.end();
    this.#socket.unref();
  }

  #write(kind: number, content: Buffer): void {
    const head = Buffer.alloc(HEAD_BYTES);
    head.writeUInt32LE(content.length + 1, 0);
    head.writeUInt8(kind, 4);
    this.#socket.write(head);
    this.#socket.write(content);
  }

  async #read(kind: number): Promise<Buffer> {
    const head = await this.#take(HEAD_BYTES);
    const length = head.readUInt32LE(0) - 1;
    if (length < 0 || length > FRAME_MAX_BYTES || head.readUInt8(4) !== kind)
      throw new FsError('EPROTO', 'the other process says something unexpected');
    return this.#take(length);
  }

  #take(bytes: number): Promise<Buffer> {
    const done = new Deferred<Buffer>();
    this.#wants = { bytes, done };
    this.#serve();
    return done.promise;
  }

  #serve(): void {
    const wants = this.#wants;
    if (wants === undefined) return;
    if (this.#receivedBytes < wants.bytes) {
      if (this.#end === undefined) return;
      this.#wants = undefined;
      wants.done.reject(this.#end);
      return;
    }
    this.#wants = undefined;
    const all = Buffer.concat(this.#received);
    const rest = all.subarray(wants.bytes);
    this.#received = rest.length > 0 ? [rest] : [];
    this.#receivedBytes = rest.length;
    wants.done.resolve(all.subarray(0, wants.bytes));
  }

  #ended(why: FsError): void {
    this.#end ??= why;
    this.#serve();
  }
}
