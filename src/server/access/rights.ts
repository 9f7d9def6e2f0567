/** What a session may do, and with which proof it was made. */

import type { AccessLimits, AccessRecord } from '../../storage/api.js';

export interface Rights {
  /**
   * Whose session it is: 'local' (root of the server's host), 'plain' (a host of --from, without TLS), or the entry of the
   * access table, as 'key:NAME' or 'certificate:NAME'. A client's record keeps it.
   */
  readonly principal: string;
  /** May shut the server down, evict clients, change the access table, and see who the clients are. */
  readonly admin: boolean;
  /** Changes nothing. */
  readonly readOnly: boolean;
  /** uid and gid 0 of its programs count as nobody's. */
  readonly squashRoot: boolean;
  readonly limits: AccessLimits;
  /** When the entry was made (milliseconds since 1970): another one of its name is another's. */
  readonly sinceMs?: number | undefined;
  /** The key that the peer has proved to have. */
  readonly keyId?: string | undefined;
}

export const LOCAL: Rights = {
  principal: 'local',
  admin: true,
  readOnly: false,
  squashRoot: false,
  limits: {},
};

/** Root of those hosts is root on the files, as it was before there were keys. */
export const PLAIN: Rights = { ...LOCAL, principal: 'plain', admin: false };

export function principalOf({ kind, name }: Pick<AccessRecord, 'kind' | 'name'>): string {
  return `${kind}:${name}`;
}

export function rightsOf(entry: AccessRecord, keyId?: string): Rights {
  const { admin, readOnly, squashRoot, limits, createdMs } = entry;
  return { principal: principalOf(entry), admin, readOnly, squashRoot, limits, sinceMs: createdMs, keyId };
}
