/**
 * What the operations of a client ask and change by name or by inode: the port between the operations, which know callers,
 * caches and the order of flushes, and whatever answers them. remote_namespace.ts answers with RPCs.
 *
 * The caller has passed the gate of the target (or mounts: learnRoot). When a method resolves, the caches know what its answer brought: attributes,
 * names and locks. The asker's signal ends the wait with EINTR; what was sent takes effect nevertheless, and the caches learn it too.
 * All methods fail with the FsError of the answer.
 */

import type { Attr } from '../../base/attr.js';
import type { Fh, Fid } from '../../base/ids.js';
import type { AttrChanges } from '../../rules/setattr.js';
import type {
  Create,
  Link,
  Lookup,
  Open,
  Readdir,
  Rename,
  Setxattr,
  StatfsMessage,
  Unlink,
} from '../../wire/meta.js';
import type { ReplyOf, RequestOf } from '../../wire/operation.js';
import type { AttrChange } from '../api.js';
import type { Asker } from '../session/callers.js';
import type { TargetSession } from '../session/target_session.js';

/** Who asks; undefined: nobody in particular, for what every client may ask. */
export type By = Asker | undefined;
/** The namespace decides which locks it wants with the answer. */
type Wanting<O> = Omit<RequestOf<O>, 'want'>;

export type Creation = Wanting<typeof Create>;
export type Opening = Wanting<typeof Open>;
/** contents: of small files, to be kept, where locks allow. */
export type LookedUp = Wanting<typeof Lookup> & { readonly contents?: boolean };
/** A part of a directory's listing, for a handle. contents: as for LookedUp. owns: the client wants to decide alone what is there. */
export type Listing = Wanting<typeof Readdir> & {
  readonly fh: Fh;
  readonly contents?: boolean;
  readonly owns?: boolean;
};
/** Called in the turn in which the answer comes: the target holds the handle open. */
export type Opened = (attr: Attr) => void;

export interface Namespace {
  /** @returns undefined: there is no such name. */
  lookup(target: TargetSession, name: LookedUp, asker: By): Promise<Attr | undefined>;
  readdir(target: TargetSession, part: Listing, asker: By): Promise<ReplyOf<typeof Readdir>>;
  /** A handle reads no more of its directory. */
  closed(fh: Fh): void;

  create(target: TargetSession, object: Creation, asker: By, opened?: Opened): Promise<Attr>;
  link(target: TargetSession, link: RequestOf<typeof Link>, asker: By): Promise<Attr>;
  unlink(target: TargetSession, name: RequestOf<typeof Unlink>, asker: By): Promise<void>;
  rename(target: TargetSession, names: RequestOf<typeof Rename>, asker: By): Promise<void>;
  open(target: TargetSession, open: Opening, asker: By, opened: Opened): Promise<void>;

  /** @param caches whether the client wants a lock under which it may cache the attributes. */
  getattr(target: TargetSession, fid: Fid, asker: By, caches: boolean): Promise<Attr>;
  /** @param own the client holds the lock under which it changes size and times: the answer is what it made of them. */
  setattr(target: TargetSession, fid: Fid, change: AttrChange, own: boolean, asker: By): Promise<Attr>;
  readlink(target: TargetSession, fid: Fid, asker: By): Promise<Uint8Array>;
  getxattr(target: TargetSession, fid: Fid, name: string, asker: By): Promise<Uint8Array>;
  setxattr(target: TargetSession, xattr: RequestOf<typeof Setxattr>, asker: By): Promise<void>;
  listxattr(target: TargetSession, fid: Fid, asker: By): Promise<readonly string[]>;
  removexattr(target: TargetSession, fid: Fid, name: string, asker: By): Promise<void>;
  statfs(target: TargetSession, asker: By): Promise<StatfsMessage>;
}

/** What a SETATTR or a BATCH says of a change, apart from the new size. */
export function changesOf(change: AttrChange): AttrChanges {
  const { mode, uid, gid, atime, mtime, ctime, killSuidgid } = change;
  return {
    mode,
    uid,
    gid,
    atime: atime === 'now' ? undefined : atime,
    mtime: mtime === 'now' ? undefined : mtime,
    atimeNow: atime === 'now' ? true : undefined,
    mtimeNow: mtime === 'now' ? true : undefined,
    ctime,
    killSuidgid: killSuidgid ? true : undefined,
  };
}
