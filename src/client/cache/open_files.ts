/**
 * The open-handle table: what open(2) made and the last close(2) has not yet ended.
 *
 * Open replay tells another instance of a target what is in this table: a handle is in it from the reply that opened it, or from
 * the open that needed no reply (local_opens.ts), until release(). If the inode of a handle is lost, or the client is evicted, the handle stays until it is closed, and answers EIO.
 * If an application lock that was taken through it is lost, it answers EIO too, but it is still open on the target.
 * fh values count up for the life of the client, so a replayed open keeps its number and no number is used twice.
 *
 * Invariants: the table by file has exactly the open handles, each under its own fid; a file is in it while it has a handle.
 */

import { assert } from '../../base/assert.js';
import { type Attr, isDir, opensForWrite } from '../../base/attr.js';
import { errnoNamed, FsError } from '../../base/errno.js';
import { type Fh, type Fid, targetIndexOf } from '../../base/ids.js';
import { Lifetime } from '../../base/lifetime.js';
import { logger } from '../../base/log.js';
import type { ClientStateMessage } from '../../wire/mount_state.js';

const log = logger('client:opens');

/**
 * Whether the target knows of a handle. never: it is one of the root directory, which nobody can remove. covered: it must know
 * before a lock goes back (local_opens.ts).
 */
export type Known = 'yes' | 'covered' | 'never';

export interface Handle {
  readonly fh: Fh;
  readonly fid: Fid;
  /** open(2) flags, as OPEN sent them. */
  readonly flags: number;
  readonly directory: boolean;
  known: Known;
  /** Ends with the session, or when the file or a lock that was taken through the handle is lost: then all its calls fail. */
  readonly life: Lifetime;
  /** The target does not have the handle: evicted, or lost. There is nothing to close there, and nothing to open again. */
  gone: boolean;
  /** A failed write-back not yet reported through this handle; fsync, close or the next write reports it once. */
  writeFailure: WriteFailure | undefined;
  /** A failed write-back of another handle, or one that failed before this handle was opened. fsync reports it once. */
  earlierFailure: WriteFailure | undefined;
  /** Where the next sequential read begins. */
  nextRead: number;
  /** Number of reads in a row that began where the read before had ended. */
  sequentialReads: number;
}

/** A write-back that failed. */
interface WriteFailure {
  readonly error: FsError;
  /** Some handle has reported it. */
  isReported: boolean;
}

/** More files than a process opens in its life: 11 years at 3,000 a second. There is room for 8,000 processes. */
const OPENS_MAX = 2 ** 40;

type OpenFilesState = Pick<ClientStateMessage, 'nextFh' | 'firstFh' | 'handles' | 'failures' | 'unreported'>;

function failureOf({ code, message }: FsError): { readonly code: string; readonly message: string } {
  return { code, message: message.slice(0, FAILURE_TEXT_MAX) };
}

/** As the message has it. */
const FAILURE_TEXT_MAX = 1000;
/** Limit on the files whose failures are kept for their next opener. */
const UNREPORTED_MAX = 10_000;

export class OpenFiles {
  /** Failures of files that nobody had open for writing any more: fsync of a later handle must not report success. */
  readonly #unreported = new Map<Fid, WriteFailure>();
  readonly #handles = new Map<Fh, Handle>();
  readonly #byFid = new Map<Fid, Set<Handle>>();
  #nextFh = 1;
  /** Below this are handles of a process that has died. */
  #firstFh = 1;

  get size(): number {
    return this.#handles.size;
  }

  newFh(): Fh {
    const fh = this.#nextFh as Fh;
    this.#nextFh += 1;
    return fh;
  }

  /** @param session its end ends the handle too. */
  add(fh: Fh, fid: Fid, flags: number, attr: Attr, session: Lifetime, known: Known = 'yes'): Handle {
    const handle = this.#insert(fh, fid, flags, isDir(attr.mode), session, known);
    handle.earlierFailure = this.#unreportedOf(fid);
    return handle;
  }

  #insert(fh: Fh, fid: Fid, flags: number, directory: boolean, session: Lifetime, known: Known): Handle {
    const handle: Handle = {
      fh,
      fid,
      flags,
      directory,
      known,
      life: new Lifetime(session),
      gone: false,
      writeFailure: undefined,
      earlierFailure: undefined,
      nextRead: 0,
      sequentialReads: 0,
    };
    this.#handles.set(fh, handle);
    const ofFile = this.#byFid.get(fid);
    if (ofFile === undefined) this.#byFid.set(fid, new Set([handle]));
    else ofFile.add(handle);
    return handle;
  }

  /** @throws FsError EBADF for a handle that is not open. */
  get(fh: Fh): Handle {
    const handle = this.#handles.get(fh);
    if (handle !== undefined) return handle;
    if (fh < this.#firstFh) throw new FsError('EIO', 'the client process that had opened the file has died');
    throw new FsError('EBADF', `no open handle ${fh}`);
  }

  /** @throws FsError EBADF, or why the handle is dead. */
  live(fh: Fh): Handle {
    const handle = this.get(fh);
    handle.life.check();
    return handle;
  }

  peek(fh: Fh): Handle | undefined {
    return this.#handles.get(fh);
  }

  remove(fh: Fh): Handle | undefined {
    const handle = this.#handles.get(fh);
    if (handle === undefined) return undefined;
    this.#handles.delete(fh);
    const ofFile = this.#byFid.get(handle.fid);
    ofFile?.delete(handle);
    if (ofFile?.size === 0) this.#byFid.delete(handle.fid);
    return handle;
  }

  isOpen(fid: Fid): boolean {
    return this.#byFid.has(fid);
  }

  isOpenToWrite(fid: Fid): boolean {
    for (const { flags } of this.of(fid)) if (opensForWrite(flags)) return true;
    return false;
  }

  of(fid: Fid): Iterable<Handle> {
    return this.#byFid.get(fid) ?? [];
  }

  /** Handles that one target has open: an eviction ends them, another instance opens them again. */
  ofTarget(index: number): Handle[] {
    return [...this.#handles.values()].filter(
      (handle) => targetIndexOf(handle.fid) === index && !handle.gone && handle.known !== 'never',
    );
  }

  /**
   * A write-back of the file failed. Each handle that may have written the file reports that once; a handle for reading reports
   * it by fsync alone. If all writers have closed the file, handles that are opened later report it by fsync, until one has.
   */
  writeFailed(fid: Fid, error: FsError): void {
    const failure: WriteFailure = { error, isReported: false };
    let isHeld = false;
    for (const handle of this.of(fid)) {
      if (!opensForWrite(handle.flags)) {
        handle.earlierFailure = failure;
        continue;
      }
      handle.writeFailure = failure;
      isHeld = true;
    }
    if (isHeld) return;
    this.#unreported.delete(fid);
    this.#unreported.set(fid, failure);
    const [oldest] = this.#unreported.keys();
    if (this.#unreported.size > UNREPORTED_MAX && oldest !== undefined) this.#unreported.delete(oldest);
  }

  #unreportedOf(fid: Fid): WriteFailure | undefined {
    const failure = this.#unreported.get(fid);
    if (failure?.isReported !== true) return failure;
    this.#unreported.delete(fid);
    return undefined;
  }

  /** The target has nothing for these handles any more: from now on all calls on them fail. */
  lost(fhs: readonly Fh[]): void {
    for (const fh of fhs) {
      const handle = this.#handles.get(fh);
      if (handle === undefined) continue;
      log('handle %d on inode %d is lost', fh, handle.fid);
      handle.life.end(new FsError('EIO', 'the file was lost while the server was away'));
      handle.gone = true;
    }
  }

  /** This process has given out no fh below this. */
  get firstFh(): Fh {
    return this.#firstFh as Fh;
  }

  /** The process before this one has died. @param firstFh of that process. */
  after(firstFh: Fh): void {
    this.#firstFh = firstFh + OPENS_MAX;
    this.#nextFh = this.#firstFh;
  }

  /** The table, for a process that takes the mount over. Cached attributes are not in it: such a client has none. */
  state(): OpenFilesState {
    const failures: WriteFailure[] = [];
    const indexOf = (failure: WriteFailure | undefined): number | undefined => {
      if (failure === undefined) return undefined;
      const known = failures.indexOf(failure);
      return known >= 0 ? known : failures.push(failure) - 1;
    };
    const handles = [...this.#handles.values()].map((handle) => ({
      fh: handle.fh,
      fid: handle.fid,
      flags: handle.flags,
      directory: handle.directory,
      unknown: handle.known === 'never',
      lost: handle.life.isOverAlone ? handle.life.endedBy && failureOf(handle.life.endedBy) : undefined,
      gone: handle.gone,
      writeFailure: indexOf(handle.writeFailure),
      earlierFailure: indexOf(handle.earlierFailure),
    }));
    const unreported = [...this.#unreported]
      .filter(([, { isReported }]) => !isReported)
      .map(([fid, failure]) => ({ fid, failure: indexOf(failure) ?? 0 }));
    return {
      nextFh: this.#nextFh as Fh,
      firstFh: this.#firstFh as Fh,
      handles,
      failures: failures.map(({ error }) => failureOf(error)),
      unreported,
    };
  }

  /** @param lifeOf the session within which a handle lives. */
  takeOver(state: OpenFilesState, lifeOf: (known: Known) => Lifetime): void {
    const failures = state.failures.map(
      ({ code, message }): WriteFailure => ({
        error: new FsError(errnoNamed(code), message),
        isReported: false,
      }),
    );
    const failure = (index: number | undefined): WriteFailure | undefined =>
      index === undefined ? undefined : failures[index];
    this.#nextFh = state.nextFh;
    this.#firstFh = state.firstFh;
    for (const { fh, fid, flags, directory, unknown, lost, gone, ...failed } of state.handles) {
      const known = unknown ? 'never' : 'yes';
      const handle = this.#insert(fh, fid, flags, directory, lifeOf(known), known);
      handle.gone = gone;
      handle.writeFailure = failure(failed.writeFailure);
      handle.earlierFailure = failure(failed.earlierFailure);
      if (lost !== undefined) handle.life.end(new FsError(errnoNamed(lost.code), lost.message));
    }
    for (const { fid, failure: index } of state.unreported) {
      const failed = failure(index);
      if (failed !== undefined) this.#unreported.set(fid, failed);
    }
  }

  all(): Iterable<Handle> {
    return this.#handles.values();
  }

  checkInvariants(): void {
    let ofFiles = 0;
    for (const [fid, handles] of this.#byFid) {
      assert(handles.size > 0, `file ${fid} is known, and not open`);
      for (const handle of handles) {
        assert(handle.fid === fid, `handle ${handle.fh} of ${handle.fid} is one of ${fid}`);
        assert(this.#handles.get(handle.fh) === handle, `handle ${handle.fh} of ${fid} is closed`);
      }
      ofFiles += handles.size;
    }
    const { size } = this.#handles;
    assert(size === ofFiles, `${size} handles are open, files have ${ofFiles}`);
    for (const [fh, handle] of this.#handles) {
      assert(
        handle.fh === fh && fh < this.#nextFh,
        `handle ${handle.fh} stands as ${fh}, next ${this.#nextFh}`,
      );
    }
    assert(this.#unreported.size <= UNREPORTED_MAX, `${this.#unreported.size} failures are kept`);
  }
}

/** Reports a write-back error once. @throws it. */
export function reportWriteError(handle: Handle): void {
  const failure = handle.writeFailure;
  if (failure === undefined) return;
  handle.writeFailure = undefined;
  failure.isReported = true;
  throw failure.error;
}

/** The same for fsync, which also answers for what was written before the handle was opened. @throws it. */
export function reportLoss(handle: Handle): void {
  reportWriteError(handle);
  const failure = handle.earlierFailure;
  if (failure === undefined) return;
  handle.earlierFailure = undefined;
  failure.isReported = true;
  throw failure.error;
}
