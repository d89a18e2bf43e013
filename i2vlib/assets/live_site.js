// On the site: what the live figure's module reads lies beside this file, as scripts, which a page opened from a file may load too.
(() => {
  if (globalThis.i2vLive) return;  // a page with two figures names this file twice
  const folder = document.currentScript.src.replace(/[^/]*$/, ""), arrived = {}, loading = {};
  globalThis.i2vLive = (name, parts) => { arrived[name] = parts; };

  const load = (name) => loading[name] ??= new Promise((done, fail) => {
    const script = document.createElement("script");
    script.src = `${folder}${name}.js`;
    script.onload = () => done(arrived[name]);
    script.onerror = () => fail(new Error(`${name}.js did not arrive`));
    document.head.appendChild(script);
  });

  function bytes(text) {
    const letters = atob(text), made = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i++) made[i] = letters.charCodeAt(i);
    return made;
  }

  async function show(place) {
    const [module, runtime, model] = await Promise.all(["module", "runtime", place.dataset.i2vLive].map(load));
    const parts = {...runtime, ...model};
    for (const name of ["runtime_wasm", "graph", "pixels"]) {
      if (typeof parts[name] === "string") parts[name] = bytes(parts[name]);
    }
    const {default: figure} = await import(URL.createObjectURL(new Blob([module.text], {type: "text/javascript"})));
    const el = document.createElement("div");
    place.appendChild(el);
    await figure.render({model: {get: (name) => parts[name]}, el});
    place.querySelectorAll(".i2v-still").forEach((still) => still.remove());
  }

  // The first figure starts at once, the others when they come near.
  const near = new IntersectionObserver((entries) => entries.forEach(({isIntersecting, target}) => {
    if (!isIntersecting) return;
    near.unobserve(target);
    show(target).catch((error) => {
      const line = target.querySelector(".i2v-why");
      if (line) line.textContent = `This is a picture: the model could not be started in this browser (${error.message || error}).`;
    });
  }), {rootMargin: "300px"});
  document.querySelectorAll("[data-i2v-live]").forEach((place) => near.observe(place));
})();
