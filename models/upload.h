#ifndef MODELS_UPLOAD_H
#define MODELS_UPLOAD_H

#include "models/model.h"

// After the model is loaded. STATUS_NO_SPACE when the device has no room for it.
Status model_upload(Model *model);
void model_release_uploads(Model *model);

#endif
