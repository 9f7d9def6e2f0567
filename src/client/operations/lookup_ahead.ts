/**
 * Lookup-ahead: programs that look up one name after the other in a directory (git status, rsync, a build) get many of them with one
 * message. After MISSES lookups that the caches could not answer, the client reads the directory, AHEAD entries at a time, with their
 * attributes and locks. If they also read the small files there, their contents come along.
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
import type { ClientContext } from '../cache/context.js';
import { ACROSS_SESSIONS, type TargetSession } from '../session/target_session.js';
import type { Namespace } from './namespace.js';

const log = logger('client:ahead');

/** Lookups that had to ask the target, before the client reads ahead. */
const MISSES = 3;
const MISSES_AFTER_WASTE = 8;
const AHEAD = 512;
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
  /** Entries of the last part, and how many lookups the caches have answered since. */
  entries: number;
  hits: number;
  /** Whether reading ahead has ended here, or is of no use. */
  isOver: boolean;
  reading: Promise<void> | undefined;
}

export class LookupAhead {
  readonly #context: ClientContext;
  readonly #namespace: Namespace;
  readonly #directories: LRUCache<Fid, Directory>;

  constructor(context: ClientContext, namespace: Namespace) {
    this.#context = context;
    this.#namespace = namespace;
    this.#directories = new LRUCache<Fid, Directory>({
      max: REMEMBERED_MAX,
      dispose: ({ fh }) => namespace.closed(fh),
    });
  }

  /** The caches have answered a lookup. */
  hit(parent: Fid): void {
    const directory = this.#directories.get(parent);
    if (directory !== undefined) directory.hits += 1;
  }

  /**
   * The caches could not answer a lookup.
   * @returns resolves when more names are there, perhaps this one too; undefined: the target must be asked for this name.
   */
  miss(target: TargetSession, parent: Fid): Promise<void> | undefined {
    const directory = this.#directory(parent);
    directory.misses += 1;
    if (directory.reading !== undefined) return directory.reading;
    if (directory.lock?.cancelling === true) beginAgain(directory);
    if (directory.misses < directory.readsAt || directory.isOver) return undefined;
    if (isWaste(directory)) {
      putOff(directory);
      return undefined;
    }
    directory.reading = this.#read(target, parent, directory).finally(() => {
      directory.reading = undefined;
    });
    return directory.reading;
  }

  #directory(parent: Fid): Directory {
    let directory = this.#directories.get(parent);
    if (directory === undefined) {
      const fh = this.#context.handles.newFh();
      const none = { misses: 0, cookie: 0, entries: 0, hits: 0 };
      directory = { ...none, fh, lock: undefined, readsAt: MISSES, isOver: false, reading: undefined };
      this.#directories.set(parent, directory);
    }
    return directory;
  }

  async #read(target: TargetSession, fid: Fid, directory: Directory): Promise<void> {
    const { fh, cookie } = directory;
    const contents = this.#context.smallReads.areUsual(fid);
    const part = { fh, fid, cookie, limit: AHEAD, plus: true, contents };
    try {
      const { entries, end } = await ACROSS_SESSIONS.wait(this.#namespace.readdir(target, part, undefined));
      directory.cookie = entries.at(-1)?.cookie ?? cookie;
      directory.entries = entries.length;
      directory.hits = 0;
      directory.isOver = end;
      directory.lock = target.locks.match('inode', fid, 'PR', BIT_UPDATE);
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
