/**
 * The client's side of its keeper (native/keeper.cc), a small process that keeps /dev/fuse open and starts another client if this
 * one dies.
 *
 * The client tells it what to start, and the seed of the next client: who this client is for the servers, and what it has agreed on
 * with the kernel. The next client ends the session of the dead one and begins a new one; it has nothing else of it.
 */

import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { mountAt } from '../../mount/mount_table.js';
import { nativeBinding, packageRoot } from '../../native/binding.js';
import { FsError } from '../base/errno.js';
import { logger } from '../base/log.js';
import { Deferred } from '../base/wait.js';
import type { Seed } from './seed_memory.js';

const log = logger('cli:keeper');

/** Descriptors of a client that a keeper has started. */
export const KEEPER_FD = 3;
export const ORPHAN_FUSE_FD = 4;

/** Holds /dev/fuse beside the client of a mount, and the seed of the next one: so the mount outlives its client. */
export interface Keeper {
  /** process: a keeper of ours. store: systemd (descriptor_store.ts). */
  readonly kind: 'process' | 'store';
  /** What a process that takes the mount over inherits, as its descriptor KEPT_FD. */
  readonly inherited: Socket | number;
  /** Replaces what was said before. @param program the words of the program that a keeper of ours is to start. */
  tell(program: readonly string[], seed: Seed): void;
  /** From now on the mount is kept. Call it when a seed is there. */
  keep(): Promise<void>;
  /** The mount ends with its client from now on. */
  forget(): Promise<void>;
}

const NUMBER_BYTES = 4;
const SEED_MAX_BYTES = 1 << 20;

export class KeeperProcess implements Keeper {
  readonly kind = 'process';
  readonly inherited: Socket;

  readonly #seed = new Deferred<Seed>();
  #came = Buffer.alloc(0);

  private constructor(socket: Socket) {
    this.inherited = socket;
    this.#seed.promise.catch(() => undefined);
    socket.on('data', (chunk: Buffer) => this.#received(chunk));
    socket.on('error', (error) => log('%s', error.message));
    socket.once('close', () => {
      log('the keeper has ended');
      this.#seed.reject(new FsError('EPROTO', 'the keeper of the mount has said nothing'));
    });
    // The keeper has no business that would keep this process.
    socket.unref();
  }

  /** What the dead client has left, for one that the keeper has started. @throws FsError EPROTO */
  seed(): Promise<Seed> {
    this.inherited.ref();
    return this.#seed.promise.finally(() => this.inherited.unref());
  }

  #received(chunk: Buffer): void {
    this.#came = Buffer.concat([this.#came, chunk]);
    if (this.#came.length < NUMBER_BYTES) return;
    const length = this.#came.readUInt32LE(0);
    if (length > SEED_MAX_BYTES)
      this.#seed.reject(new FsError('EPROTO', 'the keeper says something unexpected'));
    else if (this.#came.length >= NUMBER_BYTES + length)
      this.#seed.resolve(
        JSON.parse(this.#came.toString('utf8', NUMBER_BYTES, NUMBER_BYTES + length)) as Seed,
      );
  }

  /** @returns undefined if there is no such program here: then a client that dies takes its mount along. */
  static start(mountpoint: string, deaths: number, fuse: number): KeeperProcess | undefined {
    const device = mountAt(mountpoint)?.device;
    // Somebody has taken the mount away already.
    if (device === undefined) return undefined;
    const program = join(packageRoot(), 'native', 'build', 'Release', 'holdfast_keeper');
    if (!existsSync(program)) {
      log('%s is not there: the mount ends with its process', program);
      return undefined;
    }
    const child = spawn(program, [mountpoint, String(deaths), device], {
      detached: true,
      cwd: '/',
      stdio: ['ignore', 'inherit', 'inherit', 'pipe', fuse],
    });
    child.once('error', (error) => log('%O', error));
    child.unref();
    return new KeeperProcess(child.stdio[KEEPER_FD] as Socket);
  }

  /** The keeper of a mount that this process takes over, or whose last client has died. */
  static at(descriptor: number): KeeperProcess {
    nativeBinding().closeOnExec(descriptor);
    return new KeeperProcess(new Socket({ fd: descriptor, readable: true, writable: true }));
  }

  tell(program: readonly string[], seed: Seed): void {
    const parts: Buffer[] = [numberOf(program.length)];
    for (const word of program) {
      const bytes = Buffer.from(word);
      parts.push(numberOf(bytes.length), bytes);
    }
    parts.push(Buffer.from(JSON.stringify(seed)));
    const message = Buffer.concat(parts);
    this.inherited.write(Buffer.concat([numberOf(message.length), message]));
  }

  /** It does so from its start on. */
  keep(): Promise<void> {
    return Promise.resolve();
  }

  /** It ends when the mount does. */
  forget(): Promise<void> {
    return Promise.resolve();
  }
}

/** In this machine's byte order, which both of ours are: little-endian. */
function numberOf(value: number): Buffer {
  return Buffer.from(Uint32Array.of(value).buffer);
}
