/**
 * Lookup-ahead: programs that look up one name after the other in a directory (git status, rsync, a build) get many of them with one
 * message. After a few lookups that the caches could not answer, the client reads the directory, AHEAD entries at a time, with their
 * attributes and locks. If they also read the small files there, their contents come along.
 *
 * In the same way programs that remove, rename or change one file after the other (rm -r, chmod -R) come to own the directory and what is in
 * it (docs/WRITE_BACK.md). After a few changes that the target had to make, the client reads the directory and asks for own locks with it.
 * The next directory of a tree is read at the first change. In one that other clients have just used, the client reads nothing for a while.
 *
 * And a program that makes or moves names in an own directory looks each of them up first, to find that it is not there. After a few such
 * lookups the client reads all names of the directory, without more: then it knows by itself which ones are not there.
 *
 * The client reads on while what it has read is used. A program that looks up names in another order than that of the directory would
 * have most of it read for nothing, and so would any program in a directory that other clients change all the time. So after each
 * reading of little use it takes eight times as many lookups before the client reads ahead there again.
 */

import { LRUCache } from 'lru-cache';
import type { Fh, Fid } from '../../base/ids.js';
import { logger } from '../../base/log.js';
import type { CachedLock } from '../../dlm/api.js';
import { BIT_UPDATE } from '../../wire/lock.js';
import type { Caller } from '../api.js';
import type { ClientContext } from '../cache/context.js';
import { type Asker, inBackground } from '../session/callers.js';
import { OWN_BITS } from '../session/own_directories.js';
import { ACROSS_SESSIONS, type TargetSession } from '../session/target_session.js';
import type { Namespace } from './namespace.js';

const log = logger('client:ahead');

/** What the client reads ahead for. */
export interface Purpose {
  /** Calls in a directory that had to ask the target, before the client reads ahead there. */
  readonly misses: number;
  /** The same, when reading ahead in the last directory was of use. */
  readonly missesAfterUse: number;
  /** Whether it is to own what it reads. */
  readonly owns: boolean;
  /** Whether the names alone are of use, and only all of them. */
  readonly whole: boolean;
}
export const LOOKUPS: Purpose = { misses: 3, missesAfterUse: 3, owns: false, whole: false };
export const CHANGES: Purpose = { misses: 3, missesAfterUse: 1, owns: true, whole: false };
export const ABSENT_NAMES: Purpose = { misses: 3, missesAfterUse: 3, owns: false, whole: true };

const MISSES_AFTER_WASTE = 8;
const AHEAD = 512;
/** A name without attributes costs less than a tenth. */
const NAMES_AHEAD = 2048;
/** The client does not read the names of a directory with more of them. */
const WHOLE_MAX = 50_000;
/** Of the entries that were read, at least this part must have been looked up. */
const USED_SHARE = 1 / 8;
/** Limit on the directories of which the client remembers such things. */
const REMEMBERED_MAX = 256;

interface Directory {
  /** Number of the scan, as a handle has one. */
  readonly fh: Fh;
  /** The lock under which it was read. */
  lock: CachedLock | undefined;
  misses: number;
  /** Number of misses at which the client reads. */
  readsAt: number;
  /** Where the next part begins. */
  cookie: number;
  /** Entries of the last part, and how many calls the client has answered by itself since. */
  entries: number;
  hits: number;
  /** Whether reading ahead has ended here, or is of no use. */
  isOver: boolean;
  reading: Promise<void> | undefined;
}

export class LookupAhead {
  readonly #context: ClientContext;
  readonly #namespace: Namespace;
  readonly #purpose: Purpose;
  readonly #directories: LRUCache<Fid, Directory>;
  /** Of the next directory. */
  #misses: number;

  constructor(context: ClientContext, namespace: Namespace, purpose: Purpose) {
    this.#context = context;
    this.#namespace = namespace;
    this.#purpose = purpose;
    this.#misses = purpose.misses;
    this.#directories = new LRUCache<Fid, Directory>({
      max: REMEMBERED_MAX,
      dispose: ({ fh }) => namespace.closed(fh),
    });
  }

  /** The client has answered a call by itself. */
  hit(parent: Fid): void {
    const directory = this.#directories.get(parent);
    if (directory === undefined) return;
    directory.hits += 1;
    if (!isWaste(directory)) this.#misses = this.#purpose.missesAfterUse;
  }

  /**
   * The client could not answer a call.
   * @returns resolves when more is here, perhaps enough for this call too; undefined: the target must be asked.
   */
  miss(target: TargetSession, parent: Fid, op: Caller): Promise<void> | undefined {
    const directory = this.#directory(parent);
    directory.misses += 1;
    if (directory.reading !== undefined) return directory.reading;
    if (directory.lock?.cancelling === true) beginAgain(directory);
    if (directory.misses < directory.readsAt || directory.isOver) return undefined;
    if (this.#purpose.owns && target.own.isShared(parent)) return undefined;
    if (isWaste(directory)) {
      putOff(directory);
      this.#misses = this.#purpose.misses;
      return undefined;
    }
    directory.reading = this.#read(target, parent, directory, inBackground(op)).finally(() => {
      directory.reading = undefined;
    });
    return directory.reading;
  }

  #directory(parent: Fid): Directory {
    let directory = this.#directories.get(parent);
    if (directory === undefined) {
      const fh = this.#context.handles.newFh();
      const none = { misses: 0, cookie: 0, entries: 0, hits: 0 };
      directory = { ...none, fh, lock: undefined, readsAt: this.#misses, isOver: false, reading: undefined };
      this.#directories.set(parent, directory);
    }
    return directory;
  }

  async #read(target: TargetSession, fid: Fid, directory: Directory, asker: Asker): Promise<void> {
    const { fh } = directory;
    const { owns, whole } = this.#purpose;
    const contents = !owns && !whole && this.#context.smallReads.areUsual(fid);
    const limit = whole ? NAMES_AHEAD : AHEAD;
    directory.entries = 0;
    directory.hits = 0;
    try {
      do {
        const part = { fh, fid, cookie: directory.cookie, limit, plus: !whole, contents, owns };
        const { entries, end } = await ACROSS_SESSIONS.wait(this.#namespace.readdir(target, part, asker));
        directory.cookie = entries.at(-1)?.cookie ?? directory.cookie;
        directory.entries += entries.length;
        directory.isOver = end;
      } while (whole && !directory.isOver && directory.entries < WHOLE_MAX);
      // What is not read now is of no use.
      if (whole) directory.isOver = true;
      directory.lock = owns
        ? target.locks.match('inode', fid, 'EX', OWN_BITS)
        : target.locks.match('inode', fid, 'PR', BIT_UPDATE);
      if (directory.lock !== undefined) return;
      // Others use the directory: what was read is not known any more.
      directory.cookie = 0;
      directory.isOver = false;
      putOff(directory);
    } catch (error) {
      // Nobody has asked for the listing; whoever looks a name up is told what is wrong.
      log('of %d: %s', fid, error);
      directory.isOver = true;
    }
  }
}

function isWaste({ hits, entries }: Directory): boolean {
  return hits < entries * USED_SHARE;
}

function putOff(directory: Directory): void {
  directory.readsAt *= MISSES_AFTER_WASTE;
  directory.misses = 0;
  directory.entries = 0;
}

/** The lock is gone, and with it what was read. */
function beginAgain(directory: Directory): void {
  if (isWaste(directory)) putOff(directory);
  directory.misses = Math.min(directory.misses, 1);
  directory.lock = undefined;
  directory.cookie = 0;
  directory.entries = 0;
  directory.hits = 0;
  directory.isOver = false;
}
