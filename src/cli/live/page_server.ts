/**
 * Serves a live page: its files, and a stream of events (server-sent events) that shows what there is right now.
 *
 * - Every event is the whole view. So a reader that is slow misses events and nothing else: it gets the next one when its last one has
 *   left this process, which therefore keeps one event for it at most.
 * - The view is made once for all readers, once a second and when the source says that its state has changed, and only while somebody reads.
 * - Nobody can change anything here: it answers GET only.
 */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Timer, Timers } from '../../runtime/ports.js';
import { isSafeHost } from './page_address.js';
import type { PageFiles } from './page_files.js';
import type { PageKey } from './page_key.js';

/** What pages show. */
export interface PageSource {
  /** As JSON. Called in one turn of the event loop: it takes little time. */
  view(): object;
  /** Somebody begins to read, or nobody does any more. */
  watched?(isWatched: boolean): void;
}

export interface PageServerOptions {
  readonly timers: Timers;
  readonly files: PageFiles;
  /** Undefined: whoever reaches the address may read. */
  readonly key: PageKey | undefined;
  readonly source: PageSource;
}

const EVERY_MS = 1000;
/** Changes of state come in bursts. */
const SOON_MS = 50;
export const STREAMS_MAX = 32;
export const CONNECTIONS_MAX = 128;
/** A reader that has taken nothing for so many events is gone. */
export const LATE_EVENTS_MAX = 30;
const REQUEST_MS = 10_000;

const HEADERS: Readonly<Record<string, string>> = {
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cross-origin-resource-policy': 'same-origin',
  'cache-control': 'no-store',
};

const EVENTS_PATH = '/events';

interface Refusal {
  readonly status: number;
  readonly text: string;
  readonly headers?: Readonly<Record<string, string>>;
}

interface Reader {
  readonly response: ServerResponse;
  late: number;
}

export class PageServer {
  readonly #options: PageServerOptions;
  readonly #readers = new Set<Reader>();
  /** Not listening when this is made. */
  readonly http: Server;
  #timer: Timer | undefined;
  #soon: Timer | undefined;
  #isClosed = false;
  /** An event that is new enough for those who begin to read: so nobody makes this process work by coming again and again. */
  #fresh: string | undefined;

  constructor(options: PageServerOptions) {
    this.#options = options;
    this.http = createServer(
      { headersTimeout: REQUEST_MS, requestTimeout: REQUEST_MS, connectionsCheckingInterval: REQUEST_MS / 2 },
      (request, response) => this.#answer(request, response),
    );
    this.http.maxConnections = CONNECTIONS_MAX;
  }

  get readers(): number {
    return this.#readers.size;
  }

  /** The state has changed: readers shall not wait for the next second. */
  changed(): void {
    if (this.#readers.size === 0 || this.#isClosed) return;
    this.#soon ??= this.#options.timers.after(SOON_MS, () => this.#send(), true);
  }

  /** Readers get the last view, and the end of their streams. */
  close(): void {
    if (this.#isClosed) return;
    this.#send();
    this.#isClosed = true;
    this.#timer?.cancel();
    for (const { response } of this.#readers) response.end();
    this.#readers.clear();
    this.http.close();
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    for (const [name, value] of Object.entries(HEADERS)) response.setHeader(name, value);
    const [path = ''] = (request.url ?? '').split('?');
    const refusal = this.#refusal(request, path);
    const file = this.#options.files.byPath.get(path);
    if (refusal !== undefined) {
      const { status, text, headers } = refusal;
      // What else comes through this connection is not worth reading.
      response.shouldKeepAlive = false;
      response
        .writeHead(status, { 'content-type': 'text/plain; charset=utf-8', ...headers })
        .end(`${text}\n`);
    } else if (file === undefined) {
      this.#stream(response);
    } else {
      response.writeHead(200, { 'content-type': file.type, 'content-length': file.content.length });
      response.end(file.content);
    }
  }

  #refusal({ method, headers }: IncomingMessage, path: string): Refusal | undefined {
    const { files, key } = this.#options;
    if (method !== 'GET') return { status: 405, text: 'This page is only read.', headers: { allow: 'GET' } };
    if (key === undefined && !isSafeHost(headers.host))
      return { status: 403, text: 'Ask for this page by an IP address or as localhost.' };
    if (key !== undefined && !key.accepts(headers.authorization)) {
      const challenge = { 'www-authenticate': 'Basic realm="Holdfast", charset="UTF-8"' };
      const text = 'The password is the key in the file of --http-key; give any name.';
      return { status: 401, text, headers: challenge };
    }
    if (path !== EVENTS_PATH)
      return files.byPath.has(path) ? undefined : { status: 404, text: 'There is nothing here: see /' };
    const site = headers['sec-fetch-site'];
    // The page of somebody else could not read it, but take a place.
    if (site !== undefined && site !== 'same-origin' && site !== 'none')
      return { status: 403, text: 'Only the page itself reads its events.' };
    if (this.#isClosed) return { status: 503, text: 'This process ends.' };
    if (this.#readers.size >= STREAMS_MAX)
      return { status: 503, text: `${STREAMS_MAX} pages are open: close one.` };
    return undefined;
  }

  #stream(response: ServerResponse): void {
    response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' });
    const reader: Reader = { response, late: 0 };
    this.#readers.add(reader);
    response.once('close', () => this.#gone(reader));
    if (this.#readers.size === 1) {
      this.#options.source.watched?.(true);
      this.#arm();
    }
    response.write(this.#fresh ?? this.#event());
  }

  #gone(reader: Reader): void {
    if (!this.#readers.delete(reader) || this.#readers.size > 0) return;
    this.#timer?.cancel();
    this.#options.source.watched?.(false);
  }

  #arm(): void {
    this.#timer?.cancel();
    const { timers } = this.#options;
    this.#timer = timers.after(
      EVERY_MS,
      () => {
        this.#send();
        this.#arm();
      },
      true,
    );
  }

  /** JSON has no line break that could end the line. */
  #event(): string {
    const { files, source, timers } = this.#options;
    if (this.#fresh === undefined) {
      timers.after(
        SOON_MS,
        () => {
          this.#fresh = undefined;
        },
        true,
      );
    }
    this.#fresh = `data: ${JSON.stringify({ files: files.digest, view: source.view() })}\n\n`;
    return this.#fresh;
  }

  #send(): void {
    this.#soon?.cancel();
    this.#soon = undefined;
    if (this.#readers.size === 0 || this.#isClosed) return;
    const event = this.#event();
    for (const reader of [...this.#readers]) {
      const { response } = reader;
      if (response.writableLength === 0) {
        reader.late = 0;
        response.write(event);
        continue;
      }
      reader.late += 1;
      if (reader.late >= LATE_EVENTS_MAX) response.destroy();
    }
  }
}
