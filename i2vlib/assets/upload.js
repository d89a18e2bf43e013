// A chosen file goes to the kernel as one message, which the server drops where it is too large: only the press tells of it.
if (!window.i2vUpload) {
  window.i2vUpload = true;
  document.addEventListener("click", (event) => {
    const box = event.target.closest(".i2v-upload .widget-upload")?.closest(".i2v-upload");
    const input = box?.querySelector(".i2v-pressed input");
    if (!input) return;
    input.value = String(Date.now());
    input.dispatchEvent(new Event("change", {bubbles: true}));
  }, true);
}
