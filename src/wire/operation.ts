/** An operation on the wire: a number, a request and a reply. The files beside this one have the families. */

import type { Message } from './schema.js';
import { message, opt, req, text, uint } from './schema.js';

export interface Operation<Request, Reply> {
  readonly opcode: number;
  readonly name: string;
  readonly request: Message<Request>;
  readonly reply: Message<Reply>;
  /** It changes the target: the server gives it a transno, and answers a resend of it from reply data. */
  readonly modifies: boolean;
  /** Always sent as a notice, never as a request. An operation without this is never a notice. */
  readonly notice: boolean;
}

export type RequestOf<O> = O extends Operation<infer R, unknown> ? R : never;
export type ReplyOf<O> =
  O extends Operation<never, infer R> ? R : O extends Operation<infer _, infer R> ? R : never;

export function operation<Request, Reply>(
  opcode: number,
  name: string,
  request: Message<Request>,
  reply: Message<Reply>,
  kind: 'modifies' | 'reads' | 'notice' = 'reads',
): Operation<Request, Reply> {
  return { opcode, name, request, reply, modifies: kind === 'modifies', notice: kind === 'notice' };
}

export const Empty = message('Empty', {});
/** Body of every reply whose header carries an errno. */
export const ErrorReply = message('ErrorReply', { text: req(1, text(500)), retryAfterMs: opt(2, uint) });
