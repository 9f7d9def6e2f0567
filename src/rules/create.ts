/**
 * The rules of mknod, mkdir, symlink, open(O_CREAT) and O_TMPFILE.
 *
 * The caller names the new inode, so a creation that is asked for twice finds its own work. The mode comes with the umask
 * beside it: whether the umask counts depends on the default ACL of the directory.
 */

import {
  type Attr,
  isDir,
  isRegular,
  isSymlink,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  S_IFSOCK,
  S_ISGID,
  type Timespec,
} from '../base/attr.js';
import { FsError } from '../base/errno.js';
import type { Fh, Fid, Name } from '../base/ids.js';
import type { Dirent, Inode, Reader, Tx } from '../storage/api.js';
import { ACL_ACCESS, ACL_DEFAULT, encodeAcl, inheritAcl, isMinimal, parseAcl } from './acl.js';
import { needLiveDirectory } from './checks.js';
import { type Circumstances, Edits } from './inode_edits.js';

export interface NewObject {
  readonly parent: Fid;
  /** Absent: O_TMPFILE, an orphan from birth. */
  readonly name?: Name | undefined;
  readonly fid: Fid;
  /** Type and permissions. */
  readonly mode: number;
  readonly umask: number;
  readonly uid: number;
  readonly gid: number;
  readonly rdev?: number | undefined;
  /** The text of a symbolic link. */
  readonly target?: Uint8Array | undefined;
}

export interface Creation extends NewObject {
  /** EEXIST if the name is there; else an existing file is opened. */
  readonly exclusive: boolean;
  /** Present: it is opened as it is made. */
  readonly fh?: Fh | undefined;
}

export interface Created {
  readonly attr: Inode;
  /** Where its name lies in the directory; undefined if it has none. */
  readonly position: number | undefined;
}

const TYPES: readonly number[] = [S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK];
const PERMISSIONS = 0o7777;
const UMASK_BITS = 0o777;
/** What a directory says of itself; its names live in the meta store. */
const DIRECTORY_BYTES = 4096;
const DIRECTORY_BLOCKS = 8;

/** What can be refused without a look at the tree. @throws FsError EINVAL; ENOENT for a link that leads nowhere. */
export function checkCreation(creation: Creation): void {
  const type = creation.mode & S_IFMT;
  if (!TYPES.includes(type)) throw new FsError('EINVAL', `type 0o${type.toString(8)}`);
  if ((type === S_IFLNK) !== (creation.target !== undefined)) {
    throw new FsError('EINVAL', 'a target and a symbolic link go together');
  }
  if (creation.target?.length === 0) throw new FsError('ENOENT', 'empty target');
  if (creation.name === undefined && (creation.fh === undefined || type !== S_IFREG)) {
    throw new FsError('EINVAL', 'only an open regular file may be without a name');
  }
  if (creation.fh !== undefined && type !== S_IFREG) {
    throw new FsError('EINVAL', 'only a regular file is opened as it is made');
  }
}

/**
 * @returns what has the name: the creation's own work, or what is to be opened instead. undefined: it can be made.
 * @throws FsError ESTALE, ENOTDIR, ENOENT for the directory; EEXIST, EISDIR, ELOOP for what has the name.
 */
export function findExisting(reader: Reader, creation: Creation): Dirent | undefined {
  const { parent, name } = creation;
  needLiveDirectory(reader, parent);
  const entry = name === undefined ? undefined : reader.dirent(parent, name);
  if (entry === undefined || entry.fid === creation.fid) return entry;
  if (creation.exclusive) throw new FsError('EEXIST');
  if (isDir(entry.type)) throw new FsError('EISDIR');
  // The kernel follows symbolic links before it creates: here it lost a race, and O_NOFOLLOW's errno ends it.
  if (isSymlink(entry.type)) throw new FsError('ELOOP');
  // mknod and mkdir do not open what is there.
  if (!isRegular(creation.mode) || creation.fh === undefined) throw new FsError('EEXIST');
  return entry;
}

/** The name must not be there, nor the inode. */
export function applyCreate(tx: Tx, object: NewObject, circumstances: Circumstances): Created {
  const { parent, name, fid } = object;
  const edits = new Edits(tx, circumstances);
  const inode = newInode(edits, object);
  tx.putInode(inode);
  if (object.target !== undefined) tx.putSymlinkTarget(fid, object.target);
  if (name === undefined) {
    tx.putOrphan(fid);
  } else {
    edits.putName(parent, name, fid, inode.mode & S_IFMT);
    edits.changeDirectory(parent, isDir(inode.mode) ? 1 : 0);
  }
  edits.write();
  return { attr: inode, position: edits.position };
}

/** Puts its ACLs; the caller puts the inode. */
export function newInode(edits: Edits, object: NewObject): Inode {
  const { tx, now } = edits;
  const attr = bareAttr(edits.get(object.parent), object, now);
  const inode: Inode = { ...attr, parent: isDir(attr.mode) ? object.parent : 0, digest: undefined };
  return isSymlink(inode.mode) ? inode : withInheritedAcl(tx, object, inode);
}

/** What the new inode is, if its directory has no default ACL. */
export function bareAttr(directory: Pick<Attr, 'mode' | 'gid'>, object: NewObject, now: Timespec): Attr {
  const type = object.mode & S_IFMT;
  let mode = type === S_IFLNK ? S_IFLNK | 0o777 : masked(object);
  let { gid } = object;
  if ((directory.mode & S_ISGID) !== 0) {
    gid = directory.gid;
    if (type === S_IFDIR) mode |= S_ISGID;
  }
  return {
    fid: object.fid,
    mode,
    nlink: object.name === undefined ? 0 : type === S_IFDIR ? 2 : 1,
    uid: object.uid,
    gid,
    rdev: type === S_IFCHR || type === S_IFBLK ? (object.rdev ?? 0) : 0,
    sizeBytes: type === S_IFDIR ? DIRECTORY_BYTES : (object.target?.length ?? 0),
    blocks: type === S_IFDIR ? DIRECTORY_BLOCKS : 0,
    atime: now,
    mtime: now,
    ctime: now,
    btime: now,
    noXattrs: true,
  };
}

function masked({ mode, umask }: NewObject): number {
  return (mode & S_IFMT) | (mode & PERMISSIONS & ~(umask & UMASK_BITS));
}

/** Puts the ACLs that the new object gets from its directory's default ACL. The umask does not count if there is one. */
function withInheritedAcl(tx: Tx, { parent, fid, mode: asked }: NewObject, inode: Inode): Inode {
  const stored = tx.xattr(parent, ACL_DEFAULT);
  const parentDefault = stored === undefined ? undefined : parseAcl(stored);
  if (stored === undefined || parentDefault === undefined) return inode;
  const inherited = inheritAcl(parentDefault, inode.mode | (asked & PERMISSIONS));
  const hasAccess = !isMinimal(inherited.access);
  if (hasAccess) tx.putXattr(fid, ACL_ACCESS, encodeAcl(inherited.access));
  if (isDir(asked)) tx.putXattr(fid, ACL_DEFAULT, stored);
  return { ...inode, mode: inherited.mode, noXattrs: hasAccess || isDir(asked) ? undefined : true };
}
