// Classifies one input over and over. Put what your sensor sees into `input`, in the order [SNN_FRAMES, C, H, W].
#include <snn.h>

static snn_input input[SNN_INPUTS];
static snn_logit logits[SNN_TIMESTEPS * SNN_CLASSES];
static const char *const names[SNN_CLASSES] = SNN_CLASS_NAMES;

void setup() {
  Serial.begin(115200);
}

void loop() {
  if (snn_run(input, logits)) {
    Serial.println(names[snn_class(logits)]);
  }
  delay(1000);
}
