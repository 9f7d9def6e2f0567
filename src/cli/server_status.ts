/** STATUS of a server with however many clients: its summary, then page after page of them. */

import type { RequesterApi } from '../rpc/api.js';
import { type ClientStatusMessage, Status, type StatusReply } from '../wire/admin.js';

/** A server puts as many on a page as fit, if that is less. */
const PAGE_CLIENTS = 5000;

/** One reply with all clients. A server of an earlier version has them all in its first. */
export async function readStatus(
  requester: Pick<RequesterApi, 'call'>,
  pageClients = PAGE_CLIENTS,
): Promise<StatusReply> {
  const first = (await requester.call(Status, { limit: pageClients })).reply;
  const clients: ClientStatusMessage[] = [...first.clients];
  for (let { more } = first; more !== undefined; ) {
    const { reply } = await requester.call(Status, { after: more, limit: pageClients });
    clients.push(...reply.clients);
    more = reply.more;
  }
  // As a server that needs no pages says it: the shape of --json is the same.
  const { more: _more, clientCount: _count, ...summary } = first;
  return { ...summary, clients };
}
