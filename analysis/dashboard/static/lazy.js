// Draws what can be seen, and the rest when it is scrolled to: most of the time of a page of charts is spent on those
// that nobody looks at yet.

const pending = new Map(); // element -> how it is drawn

const sight = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      const draw = pending.get(target);
      if (!isIntersecting || !draw) continue;
      pending.delete(target);
      sight.unobserve(target);
      draw();
      delete target.dataset.pending;
    }
  },
  { rootMargin: '200px' },
);

// Of several wishes for an element the last one counts.
function drawWhenSeen(target, draw) {
  pending.set(target, draw);
  target.dataset.pending = 'true';
  sight.unobserve(target); // an observer says where a new element is, not where a known one still is
  sight.observe(target);
}
