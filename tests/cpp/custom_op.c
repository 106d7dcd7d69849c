/* A library of operators for the stock onnxruntime: test::Twice(x) = 2 x on float tensors. The runtime's wheel has no
 * headers: its C API is a table of functions to which later versions only append. */
#include <stddef.h>
#include <stdint.h>

enum {
  kCreateCustomOpDomain = 26,
  kCustomOpDomainAdd = 27,
  kAddCustomOpDomain = 28,
  kGetTensorMutableData = 51,
  kGetDimensionsCount = 61,
  kGetDimensions = 62,
  kGetTensorTypeAndShape = 65,
  kKernelContextGetInput = 90,
  kKernelContextGetOutput = 91,
  kReleaseTensorTypeAndShapeInfo = 99
};
enum { kVersion = 8, kFloat = 1, kMostDims = 8 };

typedef void* Status;
typedef void* const Api[];
typedef struct {
  const Api* (*get)(uint32_t version);
} ApiBase;

static const Api* api;
#define CALL(at, ...) ((Status(*)())(*api)[at])(__VA_ARGS__)

typedef struct CustomOp {
  uint32_t version;
  void* (*create)(const struct CustomOp*, const void* api, const void* info);
  const char* (*name)(const struct CustomOp*);
  const char* (*provider)(const struct CustomOp*);
  int (*input_type)(const struct CustomOp*, size_t);
  size_t (*inputs)(const struct CustomOp*);
  int (*output_type)(const struct CustomOp*, size_t);
  size_t (*outputs)(const struct CustomOp*);
  void (*compute)(void* kernel, void* context);
  void (*destroy)(void* kernel);
  int (*input_kind)(const struct CustomOp*, size_t);
  int (*output_kind)(const struct CustomOp*, size_t);
  void* of_later_versions[32];
} CustomOp;

static void* create(const CustomOp* op, const void* a, const void* info) {
  (void)a, (void)info;
  return (void*)op;
}
static const char* name(const CustomOp* op) {
  (void)op;
  return "Twice";
}
static const char* provider(const CustomOp* op) {
  (void)op;
  return NULL;
}
static int type(const CustomOp* op, size_t i) {
  (void)op, (void)i;
  return kFloat;
}
static int required(const CustomOp* op, size_t i) {
  (void)op, (void)i;
  return 0;
}
static size_t one(const CustomOp* op) {
  (void)op;
  return 1;
}
static void destroy(void* kernel) { (void)kernel; }

static void compute(void* kernel, void* context) {
  (void)kernel;
  void *x = NULL, *y = NULL, *shape = NULL;
  float *from = NULL, *to = NULL;
  size_t rank = 0, n = 1;
  int64_t dims[kMostDims];
  CALL(kKernelContextGetInput, context, (size_t)0, &x);
  CALL(kGetTensorTypeAndShape, x, &shape);
  CALL(kGetDimensionsCount, shape, &rank);
  CALL(kGetDimensions, shape, dims, rank);
  CALL(kReleaseTensorTypeAndShapeInfo, shape);
  CALL(kKernelContextGetOutput, context, (size_t)0, dims, rank, &y);
  CALL(kGetTensorMutableData, x, &from);
  CALL(kGetTensorMutableData, y, &to);
  for (size_t i = 0; i < rank; ++i) n *= (size_t)dims[i];
  for (size_t i = 0; i < n; ++i) to[i] = 2 * from[i];
}

static const CustomOp twice = {kVersion, create,  name,    provider, type,     one,   type,
                               one,      compute, destroy, required, required, {NULL}};

Status RegisterCustomOps(void* options, const ApiBase* base) {
  void* domain = NULL;
  api = base->get(kVersion);
  Status failed = CALL(kCreateCustomOpDomain, "test", &domain);
  if (!failed) failed = CALL(kCustomOpDomainAdd, domain, &twice);
  return failed ? failed : CALL(kAddCustomOpDomain, options, domain);
}
