'use strict';

// What the page can do beyond being read: every table sorts and filters, every point explains itself.
// Foreign text only ever reaches the page through textContent.

for (const sheet of document.querySelectorAll('[data-sheet]')) {
  const body = sheet.querySelector('tbody');
  const lines = Array.from(body.rows);
  const form = sheet.querySelector('form');
  const output = sheet.querySelector('output');
  const heads = Array.from(sheet.querySelectorAll('thead th'));

  const filter = () => {
    const words = form.querySelector('[data-search]').value.toLowerCase().split(/\s+/).filter(Boolean);
    const calm = form.querySelector('[data-calm]').checked;
    const chosen = Array.from(form.querySelectorAll('select')).filter((select) => select.value !== '');
    let shown = 0;
    for (const line of lines) {
      const text = line.textContent.toLowerCase();
      const fits = words.every((word) => text.includes(word))
        && !(calm && line.hasAttribute('data-noisy'))
        && chosen.every((select) => line.cells[Number(select.dataset.column)].dataset.value === select.value);
      line.hidden = !fits;
      shown += fits ? 1 : 0;
    }
    output.textContent = shown === lines.length ? `${shown} rows` : `${shown} of ${lines.length} rows`;
  };
  form.addEventListener('input', filter);
  form.addEventListener('change', filter);
  form.addEventListener('reset', () => setTimeout(filter));
  form.addEventListener('submit', (event) => event.preventDefault());

  heads.forEach((head, column) => {
    head.querySelector('button').addEventListener('click', () => {
      const down = head.getAttribute('aria-sort') === 'ascending';
      const numeric = head.classList.contains('number');
      const value = (line) => line.cells[column].dataset.value;
      const compare = (a, b) => {
        // what has no value comes last either way
        if (value(a) === '' || value(b) === '') return (value(a) === '') - (value(b) === '');
        const order = numeric ? Number(value(a)) - Number(value(b))
          : value(a).localeCompare(value(b), 'en', { numeric: true });
        return down ? -order : order;
      };
      heads.forEach((other) => other.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      body.append(...lines.slice().sort(compare));
    });
  });
  filter(); // a browser that goes back keeps what was typed
}

const choose = document.querySelector('[data-choose]');
if (choose) {
  const show = () => {
    for (const figure of document.querySelectorAll('[data-plot]')) {
      figure.hidden = figure.dataset.plot !== choose.value;
    }
  };
  choose.parentElement.hidden = false;
  choose.addEventListener('change', show);
  show();
}

const tip = document.querySelector('.tip');
if (tip) {
  let current = null;
  const hide = () => { tip.hidden = true; };
  const move = () => {
    if (tip.hidden) return;
    const point = current.querySelector('.dot').getBoundingClientRect();
    const left = Math.min(point.right + 12, window.innerWidth - tip.offsetWidth - 8);
    const below = point.bottom + 10;
    const fits = below + tip.offsetHeight < window.innerHeight - 8;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, fits ? below : point.top - tip.offsetHeight - 10)}px`;
  };
  const show = (mark) => {
    current = mark;
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    move();
  };
  for (const mark of document.querySelectorAll('.mark')) {
    mark.querySelector('title').remove(); // would show a second tip beside ours
    mark.addEventListener('mouseenter', () => show(mark));
    mark.addEventListener('mouseleave', hide);
    mark.addEventListener('focus', () => show(mark));
    mark.addEventListener('blur', hide);
    mark.addEventListener('click', () => show(mark));
  }
  document.addEventListener('keydown', (event) => { if (event.key === 'Escape') hide(); });
  // the keyboard scrolls to a point that is not in view: the tip goes with it
  document.addEventListener('scroll', move, { passive: true, capture: true });
  window.addEventListener('resize', move);
}

document.addEventListener('keydown', (event) => {
  const typing = event.target instanceof Element && event.target.closest('input, select, textarea');
  const search = document.querySelector('[data-search]');
  if (event.key === '/' && !typing && search && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    search.focus();
  }
});
