/** STATUS of a server with any number of clients: its summary, then its clients page after page. */

import type { RequesterApi } from '../rpc/api.js';
import { type ClientStatusMessage, Status, type StatusReply } from '../wire/admin.js';

/** Clients on a page. A server puts fewer on a page if not all of them fit. */
const PAGE_CLIENTS = 5000;

/** @returns one reply with all clients. A server of an earlier version sends them all in its first reply. */
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
  // Leaves out the fields of pages, so that the shape of --json is always the same.
  const { more: _more, clientCount: _count, ...summary } = first;
  return { ...summary, clients };
}
