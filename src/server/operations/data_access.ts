/**
 * What of a file's content a session may have: by its open handles, by tickets while it recovers, or because the caller may read or
 * write the file now. Sessions without restrictions may have all of it: their kernels have checked the permission.
 */

import { ACCESS_READ, ACCESS_WRITE } from '../../base/attr.js';
import type { Fid } from '../../base/ids.js';
import { mayHaveData } from '../../rules/permission_attrs.js';
import type { Inode } from '../../storage/api.js';
import type { ClientExport } from '../export/export.js';
import type { ServedCall } from '../target/served_call.js';

/** @param access ACCESS_* bits; 0: any handle that allows something. */
export function hasOpen(client: ClientExport, fid: Fid, access: number): boolean {
  if (client.opened().allows(fid, access)) return true;
  const proven = client.proven.get(fid);
  return proven !== undefined && proven !== 0 && (proven & access) === access;
}

/** Whether the session may get a data lock of this mode, and what the client caches under it. */
export function mayHoldData(
  { client, caller, target }: ServedCall,
  inode: Inode,
  mode: 'PR' | 'PW',
): boolean {
  if (mode === 'PW' && client.rights.readOnly) return false;
  if (caller === undefined) return true;
  const access = mode === 'PW' ? ACCESS_WRITE : ACCESS_READ;
  return hasOpen(client, inode.fid, access) || mayHaveData(target.store, inode, caller, mode);
}
