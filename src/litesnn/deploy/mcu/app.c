/* The smallest program around the network, to measure what it takes: classify one input over and over. */
#include "snn.h"

snn_input app_input[SNN_INPUTS];
volatile int app_class;

int main(void) {
    static snn_logit logits[SNN_TIMESTEPS * SNN_CLASSES];
    for (;;) {
        if (snn_run(app_input, logits)) {
            app_class = snn_class(logits);
        }
    }
}
