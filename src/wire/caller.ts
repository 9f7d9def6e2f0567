/**
 * Who asks: the process behind a request. Clients send it to a server that says in CONNECT that it squashes root
 * (`restricted.squashRoot`); of other clients the server believes that they have checked the permission themselves.
 *
 * The server believes any user but root. Without `caller` the request counts as nobody's (65534).
 */

import { list, message, nested, type Of, opt, req, u32 } from './schema.js';

/** NGROUPS_MAX of Linux. */
const GROUPS_MAX = 65_536;

export const CallerMessage = message('Caller', {
  /** fsuid and fsgid of the process. */
  uid: req(1, u32),
  gid: req(2, u32),
  /** Its supplementary groups. Absent: not looked up; then the server may refuse what they would allow. */
  groups: opt(3, list(u32, GROUPS_MAX)),
});

export const caller = nested(CallerMessage);
export type CallerOnWire = Of<typeof CallerMessage>;
