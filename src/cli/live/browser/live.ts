/**
 * Follows the events of this page's process, and of the one that comes after it: a server that is upgraded goes away, and its successor
 * answers at the same address. A page that nobody sees follows nothing.
 */

import type { Head, PageEvent } from '../shapes.js';
import { timeText } from '../words.js';
import { byId, setAttribute, setText } from './dom.js';

/** Events come once a second. One who is silent for so long is stopped, or its host is gone. */
const SILENT_MS = 5000;
const AGAIN_MS = 500;
const TICK_MS = 1000;

export interface Page<V extends Head> {
  render(view: V): void;
  /** Called once a second while nobody answers. */
  waits?(): void;
  /** In one sentence without its end: nobody answers any more. @param last what was seen last. */
  lostText(last: V | undefined): string;
}

export function follow<V extends Head>(page: Page<V>): void {
  new Follower(page).start();
}

class Follower<V extends Head> {
  readonly #page: Page<V>;
  readonly #files = document.querySelector<HTMLMetaElement>('meta[name=files]')?.content;
  #events: EventSource | undefined;
  #again: number | undefined;
  #heardMs = performance.now();
  /** Undefined: somebody answers. */
  #lostMs: number | undefined;
  #last: V | undefined;
  #isPaused = false;

  constructor(page: Page<V>) {
    this.#page = page;
  }

  start(): void {
    const button = byId('pause');
    button.addEventListener('click', () => {
      this.#isPaused = !this.#isPaused;
      button.setAttribute('aria-pressed', String(this.#isPaused));
      this.#show();
    });
    document.addEventListener('visibilitychange', () => {
      if (document.hidden) this.#disconnect();
      else this.#connect();
    });
    window.setInterval(() => this.#tick(), TICK_MS);
    if (!document.hidden) this.#connect();
  }

  #connect(): void {
    this.#disconnect();
    this.#heardMs = performance.now();
    const events = new EventSource('events');
    this.#events = events;
    events.onmessage = ({ data }) => this.#heard(JSON.parse(data as string) as PageEvent<V>);
    events.onerror = () => this.#lost();
  }

  #disconnect(): void {
    window.clearTimeout(this.#again);
    this.#again = undefined;
    this.#events?.close();
    this.#events = undefined;
  }

  #heard({ files, view }: PageEvent<V>): void {
    // The successor has another page than this one.
    if (files !== this.#files) {
      location.reload();
      return;
    }
    this.#heardMs = performance.now();
    this.#lostMs = undefined;
    this.#last = view;
    this.#show();
  }

  #lost(): void {
    this.#disconnect();
    this.#lostMs ??= performance.now();
    this.#again = window.setTimeout(() => this.#connect(), AGAIN_MS);
    this.#show();
  }

  #tick(): void {
    if (this.#events !== undefined && performance.now() - this.#heardMs > SILENT_MS) this.#lost();
    else if (this.#lostMs !== undefined) this.#show();
  }

  #show(): void {
    const isLost = this.#lostMs !== undefined;
    const connection = this.#isPaused ? 'Paused' : isLost ? 'Connecting again' : 'Live';
    setText(byId('connection'), connection);
    setAttribute(document.documentElement, 'data-connection', isLost ? 'lost' : 'live');
    if (this.#isPaused) return;
    if (this.#lostMs !== undefined) {
      const text = this.#page.lostText(this.#last);
      showHead({
        title: this.#last?.title ?? document.title,
        state: 'no answer',
        tone: 'bad',
        headline: `${text}. Connecting again since ${timeText(performance.now() - this.#lostMs)}.`,
        announcement: `${text}. Connecting again`,
        progress: undefined,
      });
      this.#page.waits?.();
      return;
    }
    if (this.#last === undefined) return;
    showHead(this.#last);
    this.#page.render(this.#last);
  }
}

function showHead({ title, state, tone, headline, announcement, progress }: Head): void {
  setText(byId('title'), title);
  if (document.title !== `${title}: ${state}`) document.title = `${title}: ${state}`;
  const pill = byId('state');
  setText(pill, state);
  setAttribute(pill, 'data-tone', tone);
  setAttribute(byId('head'), 'data-tone', tone);
  setText(byId('headline'), headline);
  setText(byId('announcement'), announcement);
  const box = byId('progress');
  box.hidden = progress === undefined;
  if (progress === undefined) return;
  setText(byId('progress-text'), progress.text);
  const share = progress.of === 0 ? 1 : progress.done / progress.of;
  setAttribute(byId('progress-fill'), 'width', String(share * 100));
}
