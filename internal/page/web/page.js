'use strict';
// Everything on the page is made of the words of one language and of what /api/state
// says. No text becomes markup: elements are made by el().

const W = JSON.parse(document.getElementById('words').textContent);
const lang = document.documentElement.lang;
const plural = new Intl.PluralRules(lang);
const $ = id => document.getElementById(id);

// t is the text of a key; tn that of a number. Values of {name} may be nodes: see rich.
const fill = (text, vars = {}) => text.replace(/\{(\w+)\}/g, (all, k) => k in vars ? vars[k] : all);
const t = (key, vars) => fill(W[key] ?? key, vars);
const tn = (key, n, vars) => fill(W[key][plural.select(n)] ?? W[key].other, { n: number(n), ...vars });
const rich = (key, vars) => W[key].split(/(\{\w+\})/).map(p => p[0] === '{' ? vars[p.slice(1, -1)] : p);

// Browsers may lack a language's way to write numbers and dates: Chromium has none for
// Belarusian. Then it is another's, and nothing that has words in it. Units are words.
const own = Intl.DateTimeFormat.supportedLocalesOf(lang).length > 0, local = own ? lang : W.formats;
const number = (n, digits = 0) => new Intl.NumberFormat(local, { maximumFractionDigits: digits }).format(n);
function size(n) {
  let i = 0;
  for (n /= 1000; n >= 999.5 && i < 3; i++) n /= 1000;
  const unit = ['kilobyte', 'megabyte', 'gigabyte', 'terabyte'][i];
  return t('unit.' + unit, { n: number(n, n < 100 ? 1 : 0) });
}
function span(s) {
  const [n, unit] = s < 90 ? [s, 'second'] : s < 5400 ? [s / 60, 'minute'] : [s / 3600, 'hour'];
  return t('unit.' + unit, { n: number(Math.max(n, 0.1), n < 10 ? 1 : 0) });
}
const clock = d => new Intl.DateTimeFormat(local, { timeStyle: 'medium' }).format(new Date(d));
const day = d => new Intl.DateTimeFormat(local, own ? { dateStyle: 'long' } : { day: '2-digit', month: '2-digit', year: 'numeric' }).format(new Date(d));

function el(tag, attrs, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attrs || {})) {
    if (k.startsWith('on')) e.addEventListener(k.slice(2), v);
    else if (v === true) e.setAttribute(k, '');
    else if (v !== false && v != null) e.setAttribute(k, v);
  }
  e.append(...children.flat().filter(c => c != null && c !== false));
  return e;
}

// The key came in the fragment of the address, and belongs to this origin alone.
const given = location.hash.slice(1);
if (/^[A-Z2-7]{26,}$/.test(given)) {
  localStorage.setItem('key', given);
  history.replaceState(null, '', '/');
}
const key = localStorage.getItem('key') || '';

async function ask(path, body) {
  const o = { headers: { 'X-Page-Key': key }, cache: 'no-store' };
  if (body !== undefined) {
    o.method = 'POST';
    o.body = body instanceof Blob ? body : JSON.stringify(body);
    if (!(body instanceof Blob)) o.headers['Content-Type'] = 'application/json';
  }
  const r = await fetch('/api/' + path, o);
  if (r.status === 403) throw { code: 'closed' };
  if (r.headers.get('Content-Type') === 'image/png') return r.blob();
  const out = await r.json();
  if (!r.ok) throw { code: out.error || 'failed' };
  return out;
}
const codeOf = e => e && e.code || 'failed';
const wrong = e => t('error.' + codeOf(e));

// What a state is called.
const way = (w, detour) => detour ? t('way.detour', { way: t('way.' + w) }) : t('way.' + w);
const kind = (w, detour) => detour ? t('way.detour', { way: t('kind.' + w) }) : t('kind.' + w);
const why = f => f ? t('failure.' + f) : t('failure.unknown');
const held = label => state.held.find(h => h.relays.includes(label) || h.label === label);
function nameOf(label, whole) {
  const h = held(label), name = h && (h.name || h.title);
  if (!name) return t('relay', { label });
  return whole || h.relays.length < 2 ? name : name + ' ' + number(h.relays.indexOf(label) + 1);
}

let state = null, over = '', adding = false, shownView = '', lastPart = {};

// part draws a part of the page again if what it shows has changed.
function part(id, data, draw) {
  const text = JSON.stringify(data);
  if (lastPart[id] === text) return;
  lastPart[id] = text;
  draw();
}
function put(e, text) { if (e.textContent !== text) e.textContent = text; }

function headline(phase) {
  const s = state, open = s && s.history.find(h => h.kind === 'moved' && h.open);
  let title = t('state.' + phase), say = t('state.' + phase + '.say');
  if (phase === 'connected') {
    const c = s.status.carriers.find(c => c.state === 'active') || s.status.carriers[0];
    const last = s.history.find(h => h.kind === 'moved' && !h.open && h.to || h.kind === 'lost');
    const silent = s.status.carriers.find(c => c.state === 'suspect');
    if (c) say = t('state.connected.by', { relay: nameOf(c.relay), way: way(c.transport, c.detour) });
    if (silent) say = t('state.connected.silent', { way: kind(silent.transport, silent.detour) }) + ' ' + t('state.connected.say');
    if (last && Date.parse(s.now) - Date.parse(last.until || last.last || last.at) < 60000) say = story(last) + ' ' + t('state.connected.say');
  } else if (phase === 'blocked') {
    const w = open && open.way || s.way, f = open && open.failure || s.failure;
    say = w && f ? t('state.blocked.why', { way: kind(w), why: why(f) }) + ' ' + say : say;
  } else if (phase === 'refused') {
    say = t('refused.' + s.failure);
  }
  put($('title'), title);
  put($('say'), say);
  $('state').dataset.phase = phase;
  document.title = title + ' – Busel';
}

// story tells one entry of the history.
function story(h) {
  const v = { way: h.way ? kind(h.way, h.kind === 'blocked' && h.detour) : '', why: why(h.failure), to: h.to ? kind(h.to, h.detour) : '',
    took: span((h.took_ms || 0) / 1000), relay: h.relay ? nameOf(h.relay, ['added', 'removed'].includes(h.kind)) : '' };
  if (h.kind === 'moved') {
    const cut = h.way ? t('story.cut', v) : t('story.silent');
    if (h.open) return cut + ' ' + t('story.seeking');
    if (h.gave_up) return cut + ' ' + t('story.ceased');
    return cut + ' ' + t('story.moved', v);
  }
  if (h.kind === 'outage') return h.open ? t('story.outage') : t('story.back', v);
  if (h.kind === 'refused') return h.failure ? t('refused.' + h.failure) : t('story.refused', v);
  return t('story.' + h.kind, v);
}

function draw() {
  const s = state;
  const closed = over || (s ? '' : 'starting');
  const phase = closed || s.phase;
  document.body.classList.toggle('first', phase === 'empty');
  if (s && !over) headline(phase); else {
    put($('title'), t('state.' + phase));
    put($('say'), t('state.' + phase + '.say'));
    $('state').dataset.phase = phase;
    document.title = 'Busel';
  }
  const usable = s && !over && phase !== 'locked';
  $('nav').hidden = !usable || phase === 'empty' && !['#programs', '#settings'].includes(location.hash);
  $('unlock').hidden = phase !== 'locked';
  const view = !usable ? '' : view_(phase);
  for (const e of document.querySelectorAll('[data-view]')) e.hidden = e.dataset.view !== view;
  for (const a of $('nav').children) {
    if (a.getAttribute('href') === '#' + view || view === 'add' && a.getAttribute('href') === '#invites') a.setAttribute('aria-current', 'page');
    else a.removeAttribute('aria-current');
  }
  if (shownView !== view) {
    shownView = view;
    document.querySelector('nav [aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'center' });
  }
  document.querySelector('#add h2').hidden = phase === 'empty';
  if (view !== 'add') stopCamera();
  if (view !== 'share' && frames.length) hideCode();
  if (!usable) return;
  drawWays(); drawData(); drawHistory(); drawPrograms(); drawHeld(); drawSettings(); drawShare();
}
function view_(phase) {
  const v = location.hash.slice(1);
  if (phase === 'empty') return ['programs', 'settings'].includes(v) ? v : 'add';
  return ['home', 'programs', 'share', 'invites', 'settings', 'add'].includes(v) ? v : 'home';
}

function drawWays() {
  const p = state.status.paths.map(p => ({ ...p, retry_s: p.retry_s > 90 ? Math.ceil(p.retry_s / 60) * 60 : Math.ceil(p.retry_s / 10) * 10 }));
  part('ways', [p, state.held], () => {
    const seen = new Map();
    for (const x of p) { // one line for each way, the best of its routes
      const k = x.relay + ' ' + x.transport + ' ' + !!x.detour, order = ['active', 'spare', 'suspect', 'known', 'untried', 'resting'];
      if (!seen.has(k) || order.indexOf(x.state) < order.indexOf(seen.get(k).state)) seen.set(k, x);
    }
    const many = new Set([...seen.values()].map(x => x.relay)).size > 1;
    $('ways').replaceChildren(...[...seen.values()].map(x => {
      const good = ['active', 'spare', 'known'].includes(x.state), bad = ['resting', 'suspect'].includes(x.state);
      let says = t('path.' + x.state);
      if (x.failure && !good) says = why(x.failure);
      if (x.state === 'resting' && x.retry_s) says += ' · ' + t('path.again', { time: span(x.retry_s) });
      return el('li', { class: good ? 'good' : bad ? 'bad' : '' }, el('span', { class: 'dot', 'aria-hidden': 'true' }),
        el('span', {}, (many ? nameOf(x.relay) + ' · ' : '') + way(x.transport, x.detour), el('small', {}, says)));
    }));
  });
}
function drawData() {
  const s = state.status;
  part('data', [s.bytes_down, s.bytes_up, s.streams, s.moves], () => $('data').replaceChildren(
    el('div', {}, el('dt', {}, t('data.down')), el('dd', {}, size(s.bytes_down))),
    el('div', {}, el('dt', {}, t('data.up')), el('dd', {}, size(s.bytes_up))),
    el('div', {}, el('dt', {}, t('data.streams')), el('dd', {}, number(s.streams))),
    el('div', {}, el('dt', {}, t('data.moves')), el('dd', {}, number(s.moves)))));
}
function drawHistory() {
  part('history', [state.history, state.held], () => $('history').replaceChildren(...state.history.map(h =>
    el('li', { 'data-kind': h.kind }, el('time', { datetime: h.at }, clock(h.at)),
      el('span', {}, story(h), h.times > 1 && el('small', {}, tn('story.times', h.times, { time: clock(h.last) })))))));
}

function copyable(text) {
  const b = el('button', { type: 'button' }, t('copy'));
  b.addEventListener('click', async () => {
    await navigator.clipboard.writeText(text);
    b.textContent = t('copied');
    setTimeout(() => { b.textContent = t('copy'); }, 2000);
  });
  return el('span', { class: 'copy' }, el('code', { dir: 'ltr' }, text), b);
}
const code = text => el('code', { dir: 'ltr' }, text);

// The programs, each with as many steps as it has texts.
const programs = ['firefox', 'chrome', 'windows', 'macos', 'linux', 'telegram', 'other'];
function drawPrograms() {
  const s = state.status;
  part('programs', [s.listen, state.user], () => {
    const at = s.listen.lastIndexOf(':'), host = s.listen.slice(0, at).replace(/[[\]]/g, ''), port = s.listen.slice(at + 1);
    const pac = 'http://' + s.listen + '/proxy.pac';
    const open = [...$('programs').querySelectorAll('details[open]')].map(d => d.dataset.program);
    $('programs').replaceChildren(...programs.map((p, i) => {
      const steps = [];
      for (let n = 1; W['programs.' + p + '.' + n]; n++) steps.push(el('li', {}, rich('programs.' + p + '.' + n, { host: code(host), port: code(port), pac: copyable(pac), socks: copyable('socks5://' + s.listen), http: copyable('http://' + s.listen) })));
      const extra = [];
      if (p === 'telegram') {
        const link = 'tg://socks?server=' + encodeURIComponent(host) + '&port=' + port + (state.user ? '&user=' + encodeURIComponent(state.user) : '');
        extra.push(el('p', { class: 'row' }, el('a', { class: 'button', href: link, id: 'telegram' }, t('programs.telegram.do')), copyable(link)));
      }
      return el('details', { 'data-program': p, open: open.length ? open.includes(p) : i === 0 }, el('summary', {}, t('programs.' + p)), el('div', {}, extra, el('ol', {}, steps)));
    }), state.user ? el('p', { class: 'warn' }, t('programs.password', { user: state.user })) : '');
  });
}

function drawHeld() {
  part('held', state.held, () => $('held').replaceChildren(...state.held.map(h => {
    const title = nameOf(h.label, true), row = el('div', { class: 'row' });
    const li = el('li', { 'data-held': h.label }, el('div', {}, el('strong', {}, title),
      el('small', {}, [h.label, tn('invites.relays', h.relays.length), h.expires ? t('invites.until', { day: day(h.expires) }) : t('invites.ever')].join(' · '))), row);
    const rename = el('button', { type: 'button', 'aria-label': t('invites.rename.of', { name: title }) }, t('invites.rename'));
    rename.addEventListener('click', () => {
      const input = el('input', { value: h.name, maxlength: 48, 'aria-label': t('invites.name') });
      const form = el('form', {}, input, el('button', { class: 'main' }, t('settings.save')));
      form.addEventListener('submit', async e => {
        e.preventDefault();
        await ask('rename', { label: h.label, name: input.value }).catch(() => { });
        lastPart.held = '';
        poll();
      });
      row.replaceChildren(form);
      input.focus();
    });
    const remove = el('button', { type: 'button', class: 'danger', 'aria-label': t('invites.remove.of', { name: title }) }, t('invites.remove'));
    remove.addEventListener('click', async () => {
      if (await sure(t('invites.sure', { name: title }), t('invites.remove'))) { await ask('remove', { label: h.label }).catch(() => { }); poll(); }
    });
    row.append(rename, remove);
    return li;
  })));
}

function drawSettings() {
  part('settings', [state.settings, state.can, state.guarded], () => {
    $('port').value = state.settings.port;
    $('policy').value = state.settings.policy;
    $('learn').checked = state.settings.learn;
    $('protect-form').hidden = !state.can.passphrase;
    $('protect-old-field').hidden = !state.guarded;
    $('wipe-card').hidden = !state.can.wipe;
    $('wifi').hidden = !state.can.nearby;
  });
}

// Sharing.
let frames = [], frame = 0, ticking = 0;
function drawShare() {
  part('which', state.held, () => {
    const was = $('which').value;
    $('which').replaceChildren(...state.held.map(h => el('option', { value: h.label }, nameOf(h.label, true))));
    if (state.held.some(h => h.label === was)) $('which').value = was;
    $('which-label').hidden = state.held.length < 2;
  });
  part('wifi', [state.nearby, state.nearby_qr], () => {
    const n = state.nearby;
    $('wifi-on').hidden = !!n;
    $('wifi-live').hidden = !n;
    if (!n) return $('wifi-live').replaceChildren();
    const off = el('button', { type: 'button', onclick: async () => { await ask('part', {}); poll(); } }, t('wifi.off'));
    $('wifi-live').replaceChildren(
      el('p', {}, t('wifi.open')), ...n.urls.map(u => el('p', {}, copyable(u))),
      el('figure', { class: 'qr' }, ...(state.nearby_qr || []).slice(0, 1).map(svg => el('img', { src: picture(svg), alt: t('wifi.qr') }))),
      el('p', {}, t('wifi.pin')), el('p', { class: 'pin', id: 'pin' }, n.pin),
      el('p', { class: 'soft' }, t('wifi.until', { time: clock(n.until) }) + ' ' + tn('wifi.taken', n.taken)), off);
  });
}
const picture = svg => 'data:image/svg+xml,' + encodeURIComponent(svg);
function showFrame() {
  $('qr').src = picture(frames[frame]);
  $('qr').alt = frames.length > 1 ? t('share.part', { n: number(frame + 1), of: number(frames.length) }) : t('share.code');
  put($('qr-part'), frames.length > 1 ? $('qr').alt : '');
  frame = (frame + 1) % frames.length;
}
function hideCode() {
  clearInterval(ticking);
  frames = [];
  $('qr').hidden = $('share-more').hidden = true;
  $('qr').removeAttribute('src');
  put($('qr-part'), '');
  $('show').hidden = false;
}
$('which').addEventListener('change', hideCode);
$('show').addEventListener('click', async () => {
  frames = (await ask('share?label=' + encodeURIComponent($('which').value))).codes;
  frame = 0;
  showFrame();
  // A phone needs about a third of a second for a code.
  if (frames.length > 1) ticking = setInterval(showFrame, 700);
  $('qr').hidden = $('share-more').hidden = false;
  $('show').hidden = true;
});
$('save').addEventListener('click', async () => {
  const url = URL.createObjectURL(await ask('picture?label=' + encodeURIComponent($('which').value)));
  el('a', { href: url, download: 'invite.png' }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
});
$('copy').addEventListener('click', async () => {
  await navigator.clipboard.writeText((await ask('share?label=' + encodeURIComponent($('which').value))).text);
  put($('copy'), t('copied'));
  setTimeout(() => put($('copy'), t('share.copy')), 2000);
});
$('wifi-on').addEventListener('click', async () => {
  put($('wifi-error'), '');
  try { await ask('nearby', { label: $('which').value }); poll(); } catch (e) { put($('wifi-error'), wrong(e)); }
});

// Taking an invite. Parts of one are kept until it is whole.
let parts = new Set();
function progress() {
  const p = [...parts].map(s => /^busel\/(\d+)\/(\d+):/i.exec(s)).filter(Boolean);
  return p.length ? t('add.parts', { n: number(new Set(p.map(m => m[1])).size), of: number(+p[0][2]) }) : '';
}
async function take(texts) {
  for (const s of texts) parts.add(s);
  put($('add-error'), '');
  try {
    const out = await ask('add', { text: [...parts].join('\n') });
    parts.clear();
    stopCamera();
    $('text').value = '';
    put($('add-note'), t('add.' + out.change));
    if (out.change === 'added' || out.change === 'replaced') { location.hash = 'programs'; put($('add-note'), ''); }
    await poll();
    return true;
  } catch (e) {
    if (e && e.code === 'incomplete') { put($('add-note'), progress()); return false; }
    parts.clear();
    put($('add-note'), '');
    put($('add-error'), wrong(e));
    return false;
  }
}
async function takePictures(files) {
  if (adding) return;
  adding = true;
  put($('add-error'), '');
  put($('add-note'), t('add.reading'));
  try {
    const texts = [];
    for (const f of files) {
      let out;
      try { out = await ask('read', f); } catch (e) {
        if (!e || e.code !== 'picture-format') throw e;
        out = await ask('read', await asPNG(f)); // the browser knows more formats
      }
      texts.push(...out.texts);
    }
    put($('add-note'), '');
    await take(texts);
  } catch (e) { put($('add-note'), ''); put($('add-error'), wrong(e)); }
  adding = false;
}
async function asPNG(f) {
  const bitmap = await createImageBitmap(f).catch(() => { throw { code: 'picture-format' }; });
  return still(bitmap, bitmap.width, bitmap.height, 3000, 'image/png');
}
function still(source, width, height, most, type) {
  const scale = Math.min(1, most / Math.max(width, height)), c = el('canvas', {});
  c.width = width * scale; c.height = height * scale;
  c.getContext('2d').drawImage(source, 0, 0, c.width, c.height);
  return new Promise(done => c.toBlob(done, type, 0.9));
}
$('choose').addEventListener('click', () => $('file').click());
$('file').addEventListener('change', async () => { await takePictures([...$('file').files]); $('file').value = ''; });
$('text-form').addEventListener('submit', e => { e.preventDefault(); parts.clear(); take([$('text').value]); });
addEventListener('paste', e => {
  if ($('add').hidden) return;
  const files = [...e.clipboardData.files].filter(f => f.type.startsWith('image/'));
  const text = e.clipboardData.getData('text');
  if (files.length) { e.preventDefault(); takePictures(files); }
  else if (/busel[:/]/i.test(text)) { e.preventDefault(); $('text').value = text; take([text]); }
});
for (const kind of ['dragover', 'dragleave', 'drop']) addEventListener(kind, e => {
  if ($('add').hidden) return;
  e.preventDefault();
  $('drop').classList.toggle('over', kind === 'dragover');
  if (kind !== 'drop') return;
  const files = [...e.dataTransfer.files];
  if (files.length) takePictures(files); else take([e.dataTransfer.getData('text')]);
});

// The camera's pictures are read by the client on this device.
let lens = null;
function stopCamera() {
  if (!lens) return;
  for (const track of lens.getTracks()) track.stop();
  lens = null;
  $('video').srcObject = null;
  $('lens').hidden = true;
  put($('camera'), t('add.camera.do'));
}
$('camera').addEventListener('click', async () => {
  if (lens) return stopCamera();
  put($('add-error'), '');
  try { lens = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment', width: { ideal: 1280 } } }); } catch (e) {
    return put($('add-error'), t(e && e.name === 'NotFoundError' ? 'camera.none' : 'camera.denied'));
  }
  const mine = lens, v = $('video');
  parts.clear();
  v.srcObject = lens;
  $('lens').hidden = false;
  put($('camera'), t('add.camera.stop'));
  put($('add-note'), t('add.camera.looking'));
  await v.play();
  while (lens === mine) {
    const before = parts.size;
    try {
      const out = await ask('read', await still(v, v.videoWidth, v.videoHeight, 1000, 'image/jpeg'));
      if (lens === mine && out.texts.some(s => !parts.has(s)) && await take(out.texts)) return;
    } catch (e) {
      if (e && e.code === 'closed') return stopCamera();
      if (e && e.code === 'foreign') put($('add-error'), wrong(e));
    }
    if (parts.size === before) await new Promise(r => setTimeout(r, 60));
  }
});

// Settings and the end.
const settings = () => ({ port: +$('port').value, policy: $('policy').value, learn: $('learn').checked, language: state.settings.language });
$('settings-form').addEventListener('submit', async e => {
  e.preventDefault();
  try {
    const out = await ask('settings', settings());
    put($('settings-note'), t(out.restart ? 'settings.restart' : 'settings.saved'));
  } catch (x) { put($('settings-note'), wrong(x)); }
});
$('lang').addEventListener('change', async () => {
  if (state) await ask('settings', { ...state.settings, language: $('lang').value }).catch(() => { });
  location.reload();
});
$('protect-form').addEventListener('submit', async e => {
  e.preventDefault();
  try {
    const passphrase = $('protect-new').value;
    await ask('protect', { old: $('protect-old').value, passphrase });
    put($('protect-note'), t(passphrase ? 'protect.set' : 'protect.gone'));
    $('protect-form').reset();
  } catch (x) { put($('protect-note'), wrong(x)); }
});
$('unlock-form').addEventListener('submit', async e => {
  e.preventDefault();
  put($('unlock-error'), '');
  try { await ask('unlock', { passphrase: $('unlock-word').value }); $('unlock-form').reset(); poll(); } catch (x) { put($('unlock-error'), wrong(x)); }
});
function sure(text, yes) {
  put($('sure-text'), text);
  put($('sure-yes'), yes);
  $('sure').returnValue = '';
  $('sure').showModal();
  return new Promise(done => $('sure').addEventListener('close', () => done($('sure').returnValue === 'yes'), { once: true }));
}
$('quit').addEventListener('click', async () => {
  if (!await sure(t('quit.sure'), t('quit.do'))) return;
  await ask('quit', {}).catch(() => { });
  over = 'ended';
  draw();
});
$('wipe').addEventListener('click', async () => {
  if (!await sure(t('wipe.sure'), t('wipe.do'))) return;
  // It may be gone before its answer is here.
  try { await ask('wipe', {}); } catch (e) { if (e && e.code) return put($('wipe-error'), wrong(e)); }
  localStorage.removeItem('key');
  over = 'wiped';
  draw();
});
$('clear').addEventListener('click', async () => { await ask('clear', {}); poll(); });

async function poll() {
  if (over === 'ended' || over === 'wiped') return;
  try {
    state = await ask('state');
    over = '';
  } catch (e) { over = e && e.code === 'closed' ? 'closed' : 'lost'; }
  draw();
}
addEventListener('hashchange', () => {
  draw();
  if (document.activeElement && document.activeElement.closest('nav')) return;
  $('main').focus({ preventScroll: true });
});
for (const e of document.querySelectorAll('[data-t]')) e.textContent = t(e.dataset.t);
for (const e of document.querySelectorAll('[data-label]')) e.setAttribute('aria-label', t(e.dataset.label));
draw();
poll();
setInterval(() => { if (!document.hidden) poll(); }, 1000);
document.addEventListener('visibilitychange', () => { if (!document.hidden) poll(); });
