/**
 * POSIX ACLs as the kernel's xattrs carry them (system.posix_acl_access, system.posix_acl_default), and their ties to
 * the mode: inheritance at create, mode from ACL at setxattr, ACL from mode at chmod.
 *
 * With FUSE_POSIX_ACL the kernel checks accesses by the ACL but leaves these ties to the filesystem. The rules are those
 * of linux/fs/posix_acl.c (posix_acl_valid, posix_acl_create_masq, __posix_acl_chmod_masq, posix_acl_equiv_mode).
 */

import { FsError } from '../base/errno.js';

export const ACL_ACCESS = 'system.posix_acl_access';
export const ACL_DEFAULT = 'system.posix_acl_default';

/** Tags. Source: linux/posix_acl.h. */
export const TAG = { userObj: 1, user: 2, groupObj: 4, group: 8, mask: 16, other: 32 } as const;
const VERSION = 2;
const HEADER_SIZE = 4;
const ENTRY_SIZE = 8;
const PERMISSIONS = 0o777;

export interface AclEntry {
  readonly tag: number;
  /** rwx bits, 0-7. */
  readonly perm: number;
  /** uid or gid of `user` and `group` entries; 0xffffffff of all others. */
  readonly id: number;
}
export type Acl = readonly AclEntry[];

function invalid(what: string): FsError {
  return new FsError('EINVAL', `ACL: ${what}`);
}

/**
 * Entries come in the order owner, users, group, groups, mask, other; a mask is needed where users or groups are named.
 */
function check(entries: Acl): void {
  const order: readonly number[] = [TAG.userObj, TAG.user, TAG.groupObj, TAG.group, TAG.mask, TAG.other];
  let position = 0;
  let named = false;
  const seen = new Set<number>();
  for (const entry of entries) {
    const at = order.indexOf(entry.tag);
    if (at < 0) throw invalid(`unknown tag ${entry.tag}`);
    if (at < position) throw invalid('entries out of order');
    position = at;
    const repeatable = entry.tag === TAG.user || entry.tag === TAG.group;
    if (!repeatable && seen.has(entry.tag)) throw invalid(`tag ${entry.tag} twice`);
    if (repeatable) named = true;
    seen.add(entry.tag);
    if (entry.perm > 7) throw invalid('permission bits out of range');
  }
  for (const tag of [TAG.userObj, TAG.groupObj, TAG.other]) {
    if (!seen.has(tag)) throw invalid(`tag ${tag} is missing`);
  }
  if (named && !seen.has(TAG.mask)) throw invalid('the mask is missing');
}

/**
 * @returns undefined for an ACL without entries, which means "none".
 * @throws FsError EINVAL, EOPNOTSUPP for another version.
 */
export function parseAcl(value: Uint8Array): Acl | undefined {
  const view = Buffer.from(value.buffer, value.byteOffset, value.length);
  if (view.length < HEADER_SIZE || (view.length - HEADER_SIZE) % ENTRY_SIZE !== 0) {
    throw invalid(`${view.length} bytes`);
  }
  if (view.readUInt32LE(0) !== VERSION) throw new FsError('EOPNOTSUPP', 'ACL: unknown version');
  const entries: AclEntry[] = [];
  for (let at = HEADER_SIZE; at < view.length; at += ENTRY_SIZE) {
    entries.push({
      tag: view.readUInt16LE(at),
      perm: view.readUInt16LE(at + 2),
      id: view.readUInt32LE(at + 4),
    });
  }
  if (entries.length === 0) return undefined;
  check(entries);
  return entries;
}

export function encodeAcl(acl: Acl): Buffer {
  const out = Buffer.alloc(HEADER_SIZE + acl.length * ENTRY_SIZE);
  out.writeUInt32LE(VERSION, 0);
  acl.forEach((entry, index) => {
    const at = HEADER_SIZE + index * ENTRY_SIZE;
    out.writeUInt16LE(entry.tag, at);
    out.writeUInt16LE(entry.perm, at + 2);
    out.writeUInt32LE(entry.id, at + 4);
  });
  return out;
}

function permOf(acl: Acl, tag: number): number | undefined {
  return acl.find((entry) => entry.tag === tag)?.perm;
}

/** It says no more than the nine permission bits do. */
export function isMinimal(acl: Acl): boolean {
  return acl.length === 3;
}

/** The mode that goes with an access ACL: the group bits show the mask where there is one. */
export function modeOfAcl(acl: Acl, mode: number): number {
  const owner = permOf(acl, TAG.userObj) ?? 0;
  const group = permOf(acl, TAG.mask) ?? permOf(acl, TAG.groupObj) ?? 0;
  const other = permOf(acl, TAG.other) ?? 0;
  return (mode & ~PERMISSIONS) | (owner << 6) | (group << 3) | other;
}

/** The access ACL after chmod(mode): owner, other and the mask (or the group where there is no mask) follow the mode. */
export function aclAfterChmod(acl: Acl, mode: number): Acl {
  const masked = permOf(acl, TAG.mask) !== undefined;
  return acl.map((entry) => {
    if (entry.tag === TAG.userObj) return { ...entry, perm: (mode >> 6) & 7 };
    if (entry.tag === TAG.mask || (entry.tag === TAG.groupObj && !masked)) {
      return { ...entry, perm: (mode >> 3) & 7 };
    }
    return entry.tag === TAG.other ? { ...entry, perm: mode & 7 } : entry;
  });
}

/** What a new object gets from its directory's default ACL; the umask does not count then. */
export function inheritAcl(
  parentDefault: Acl,
  mode: number,
): { readonly mode: number; readonly access: Acl } {
  const masked = permOf(parentDefault, TAG.mask) !== undefined;
  const access = parentDefault.map((entry) => {
    if (entry.tag === TAG.userObj) return { ...entry, perm: entry.perm & (mode >> 6) };
    if (entry.tag === TAG.mask || (entry.tag === TAG.groupObj && !masked)) {
      return { ...entry, perm: entry.perm & (mode >> 3) };
    }
    return entry.tag === TAG.other ? { ...entry, perm: entry.perm & mode } : entry;
  });
  return { mode: modeOfAcl(access, mode), access };
}
